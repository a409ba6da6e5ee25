"""What the log-probs, masks and rewards of rollouts from any framework say, as arrays."""

import numpy as np

import dsjax as ds

rng = np.random.default_rng(0)
rows, length = 64, 6  # five tokens of an answer, then the decision whether to keep it
logp = -rng.exponential(1.0, (rows, length))
sample = np.tile(np.arange(length) < 5, (rows, 1))
found = ds.attribute_rollouts(
    "grpo",
    logp=logp,
    old_logp=logp,  # of the policy that drew them: here the same one
    sample_mask=sample,
    decision_mask=~sample,
    reward=rng.integers(0, 2, rows).astype(float),
    group=np.arange(rows) // 8,
    decision_choices=2,  # STOP and RESAMPLE alone
)
print(found.reading)

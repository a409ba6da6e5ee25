"""tunix, agentic GRPO: `trajectory_log_{time}.csv`, rows of a whole run, arrays as text."""

from __future__ import annotations

import numpy as np

from dsjax.rollouts.frameworks.base import Framework, Reading, Rows, Written, answers, numbered, padded


def read(rows: Rows, reading: Reading) -> Written:
    """`old_logprobs` are of the engine that drew the tokens, 0 where it returned none."""
    tokens = rows.lists("conversation_tokens", "i")
    arrays = answers(tokens, rows.lists("conversation_masks", "b", like=tokens))
    mask, said = arrays["sample_mask"], []
    given = all(row.get("old_logprobs") not in (None, "None") for row in rows.rows)
    logp = padded(rows.lists("old_logprobs", "f", like=tokens)) if given else np.zeros(mask.shape)
    if logp[mask].any():
        arrays["logp"] = logp
        said.append("logp: old_logprobs, of the engine that drew the tokens, in the place of the trainer's own.")
    else:
        said.append("old_logprobs are empty or 0: RolloutConfig(return_logprobs=True) writes them.")
    known = all(row.get("group_id") not in (None, "None") for row in rows.rows)
    arrays["group"] = numbered(rows.values("group_id" if known else "prompt_tokens"))
    arrays["reward"] = rows.numbers("trajectory_reward")
    said.append("reward: of the environment; what reward_fns add to it is not in the file.")
    if rows.has("status"):
        arrays["truncated"] = np.array([status != "SUCCEEDED" for status in rows.texts("status")])
    return Written(arrays, said)


FRAMEWORK = Framework(
    name="tunix",
    title="tunix",
    file=r"trajectory_log(_\d+)?\.csv",
    told_by=("conversation_tokens", "conversation_masks"),
    uses=(
        "prompt_tokens",
        "conversation_tokens",
        "conversation_masks",
        "trajectory_reward",
        "old_logprobs",
        "group_id",
        "policy_version",
        "status",
    ),
    step="policy_version",
    writes="written with metrics_logging_options=MetricsLoggerOptions(log_dir=DIR, ..) in the training config",
    lacks={
        "advantage": "no switch writes it; objectives compute theirs from the rewards",
        "old_logp": "the trainer's own log-probs stay in the process; --on-policy takes logp for them",
        "ref_logp": "no switch writes it",
    },
    read=read,
)

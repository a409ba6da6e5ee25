"""slime: a function for `--custom-rollout-log-function-path`, which gets the samples of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.adapters.recorder import Arrays, Recorder, needed, to_numpy


def log_function(directory: str | Path, **options: Any) -> Callable[..., bool]:
    """The log function; slime's own logging goes on after it. Its step is slime's `rollout_id`.

    Args:
      directory: of the files.
      **options: of `Recorder`.
    """
    recorder = Recorder(directory, **options)

    def log(
        rollout_id: int, args: Any, samples: Sequence[Any], rollout_extra_metrics: Any, rollout_time: float
    ) -> bool:
        del rollout_extra_metrics, rollout_time
        recorder.write(rollout_id, rollouts(args, samples))
        return False

    return log


def rollouts(args: Any, samples: Sequence[Any]) -> Arrays:
    """The arrays of slime's `Sample`s: log-probs are the engine's, under the policy that drew the tokens.

    Samples that slime takes out of the loss (`remove_sample`) have no token that counts.

    Raises:
      InputError: without `rollout_log_probs`.
    """
    lengths = [sample.response_length for sample in samples]
    masks = [[1] * n if s.loss_mask is None else s.loss_mask for s, n in zip(samples, lengths, strict=True)]
    how = "the engine's log-probs of the response, as slime's own generation keeps them in each sample"
    logp = to_numpy([list(needed(vars(s), "rollout_log_probs", how)) for s in samples]).astype(np.float32)
    kept = [not getattr(sample, "remove_sample", False) for sample in samples]
    return {
        "tokens": to_numpy([list(s.tokens[len(s.tokens) - n :]) for s, n in zip(samples, lengths, strict=True)]),
        "sample_mask": to_numpy([list(mask) for mask in masks]).astype(bool) & np.array(kept)[:, None],
        "logp": logp,
        "old_logp": logp,  # nothing was learnt since
        "reward": np.array([sample.get_reward_value(args) for sample in samples], float),
        "group": np.array([sample.group_index for sample in samples]),
        "truncated": np.array([sample.status.value == "truncated" for sample in samples]),
    }

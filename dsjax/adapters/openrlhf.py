"""OpenRLHF: the `Experience`s that its experience maker returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.adapters.recorder import Arrays, Recorder, to_numpy

PER_TOKEN = {
    "sample_mask": "action_mask",
    "logp": "action_log_probs",
    "old_logp": "action_log_probs",  # made before the update
    "sampler_logp": "rollout_log_probs",
    "ref_logp": "base_action_log_probs",
    "values": "values",
    "advantage": "advantages",
}


def record(experience_maker: Any, directory: str | Path, **options: Any) -> Recorder:
    """Write what every call of `make_experience_batch` returns; a call is a step.

    Args:
      experience_maker: of OpenRLHF; that method of this object is wrapped.
      directory: of the files.
      **options: of `Recorder`.
    """
    recorder, make, calls = Recorder(directory, **options), experience_maker.make_experience_batch, iter(range(10**9))

    def made(*args: Any, **kwargs: Any) -> Any:
        experiences = make(*args, **kwargs)
        recorder.write(next(calls), rollouts(experiences))
        return experiences

    experience_maker.make_experience_batch = made
    return recorder


def rollouts(experiences: Sequence[Any]) -> Arrays:
    """The arrays of all experiences, one row a sample, as wide as the widest; groups are those of one prompt."""

    def whole(field: str) -> np.ndarray | None:
        parts = [getattr(experience, field, None) for experience in experiences]
        if any(part is None or len(part) == 0 for part in parts):
            return None
        rows = [row for part in parts for row in to_numpy(part)]
        return to_numpy(rows) if rows[0].ndim else np.array(rows)

    found: Arrays = {name: whole(field) for name, field in PER_TOKEN.items()}
    # The actions are the last of a sequence: all but its first token, or the response.
    widths = [e.action_log_probs.shape[1] for e in experiences]
    tokens = [to_numpy(e.sequences)[:, -n:] for e, n in zip(experiences, widths, strict=True)]
    found["tokens"] = to_numpy([row for part in tokens for row in part])
    prompts = whole("prompts")
    return {
        **found,
        "reward": whole("rewards"),
        "truncated": whole("truncated"),
        "group": None if prompts is None else np.unique(prompts, return_inverse=True)[1],
    }

"""SkyRL: a callback that writes the batch of every step, as `on_step_end` gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.adapters.recorder import Arrays, Recorder, to_numpy


class RolloutCallback:
    """A callback of `skyrl.train`: pass it in the trainer's `callbacks`. It answers every event and acts on one.

    Args:
      directory: of the files.
      **options: of `Recorder`.
    """

    def __init__(self, directory: str | Path, **options: Any):
        self.recorder = Recorder(directory, **options)

    def on_step_end(self, trainer: Any, callback_input: Any, control: Any) -> None:
        """Write `callback_input.batch`."""
        del trainer, control
        if callback_input.batch is not None:
            self.recorder.write(callback_input.global_step, rollouts(callback_input.batch))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_: None


def rollouts(batch: Any) -> Arrays:
    """The arrays of a `TrainingInputBatch`: a mapping of tensors [B, A] of the response's slots, with `metadata`.

    Groups are by `uids`, or by the `policy_prompt_boundaries` that SkyRL keeps of them. `rewards` and `trajectory_ids`
    are used where it keeps them until then. Rows at the end that only fill the batch (`pad_size`) are left out.
    """
    fields: Mapping[str, Any] = batch
    kept = len(fields["loss_mask"]) - int(batch.metadata.get("pad_size", 0))
    per_token = {
        "sample_mask": "loss_mask",
        "logp": "action_log_probs",
        "old_logp": "action_log_probs",  # the batch as it was before the update
        "sampler_logp": "rollout_logprobs",
        "ref_logp": "base_action_log_probs",
        "values": "values",
        "advantage": "advantages",
        "tokens": "sequences",
        "reward": "rewards",
    }
    known = {name: fields.get(field) for name, field in per_token.items()}
    found = {name: to_numpy(x)[:kept] for name, x in known.items() if x is not None}
    found["tokens"] = found["tokens"][:, -found["logp"].shape[1] :]  # the response ends the sequence
    if "reward" in found:
        found["reward"] = found["reward"].sum(-1) if found["reward"].ndim == 2 else found["reward"]
    for name, field in (("group", "uids"), ("trajectory", "trajectory_ids")):
        if batch.metadata.get(field) is not None:
            found[name] = to_numpy(batch.metadata[field])[:kept]
    bounds = batch.metadata.get("policy_prompt_boundaries")
    if "group" not in found and bounds is not None:
        found["group"] = np.repeat(np.arange(len(bounds)), [end - start for start, end in bounds])[:kept]
    return found

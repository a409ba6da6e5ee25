"""verl: the batch of a step on the trainer's side, and what a policy loss sees on the actor's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.adapters.recorder import Arrays, Recorder, to_numpy
from dsjax.errors import require


def record(trainer: Any, directory: str | Path, **options: Any) -> Recorder:
    """Write the batch of every step. verl calls `_log_rollout_data` where `trainer.rollout_data_dir` is set.

    Args:
      trainer: `RayPPOTrainer`, or a trainer of `verl.trainer.ppo.v1`, the class or an object; its `_log_rollout_data`
        is wrapped. In the trainer's process.
      directory: of the files.
      **options: of `Recorder`.
    """
    owner = trainer if isinstance(trainer, type) else type(trainer)
    recorder, log = Recorder(directory, **options), owner._log_rollout_data

    def logged(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.write(self.global_steps, rollouts(batch if hasattr(batch, "batch") else fetched(batch)))
        return log(self, batch, *args, **kwargs)

    owner._log_rollout_data = logged
    return recorder


FIELDS = (
    *("uid", "prompts", "responses", "response_mask", "rm_scores", "old_log_probs", "rollout_log_probs"),
    *("ref_log_prob", "values", "advantages"),
)


def fetched(meta: Any) -> Any:
    """The fields of a `KVBatchMeta`, which verl's v1 trainers hand around, from its transfer queue."""
    queue = sys.modules["transfer_queue"]
    return queue.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=list(FIELDS))


def rollouts(data: Any) -> Arrays:
    """The arrays of a `DataProto` after `compute_advantage`, or of such fields in a mapping.

    With `actor.calculate_sum_pi_squared` they have `score_norm`.
    """
    batch, others = (data.batch, data.non_tensor_batch) if hasattr(data, "batch") else (data, data)
    logp, squares, uid = batch["old_log_probs"], batch.get("sum_pi_squared", None), others.get("uid", None)
    scores = batch.get("token_level_scores", None)
    return {
        "tokens": batch["responses"],
        "prompt": batch.get("prompts", None),
        "sample_mask": batch["response_mask"],
        "logp": logp,
        "old_logp": logp,  # the batch as it was before the update
        "sampler_logp": batch.get("rollout_log_probs", None),
        "ref_logp": batch.get("ref_log_prob", None),
        "values": batch.get("values", None),
        "advantage": batch["advantages"],
        "reward": to_numpy(batch["rm_scores"] if scores is None else scores).sum(-1),
        "group": None if uid is None else np.array(uid.tolist()),
        "score_norm": None if squares is None else norm_of_squares(to_numpy(logp), to_numpy(squares)),
    }


def norm_of_squares(logp: np.ndarray, sum_pi_squared: np.ndarray) -> np.ndarray:
    """`sqrt((1 - p)^2 + (sum_u pi_u^2 - p^2))`, p = exp(logp): the score's norm; second term cut off below 0.

    Where p is near 1 the sum has lost it to rounding: an error of some sqrt(eps), 3e-4 in float32. `token_scores` of
    `torch_model` takes logits and has none.
    """
    logp, squares = logp.astype(np.float64), sum_pi_squared.astype(np.float64)
    return np.sqrt(np.expm1(logp) ** 2 + np.maximum(squares - np.exp(2 * logp), 0.0))


def policy_loss(loss: Callable[..., Any], directory: str | Path, **options: Any) -> Callable[..., Any]:
    """The policy loss, for `register_policy_loss(name)`, that also writes what it sees: one file a micro-batch.

    Only here stand the log-probs of the present policy beside those of the old one. There are no tokens and no rewards
    here: `mark` gets `logp`, `old_logp`, `advantage` and `sample_mask` alone, `joined` finds the rest.

    Args:
      loss: a policy loss of verl, `get_policy_loss_fn("vanilla")`.
      directory: of the files; several actor processes also need `rank`.
      **options: of `Recorder`; a step is a call.
    """
    recorder, calls = Recorder(directory, **options), iter(range(10**9))

    def recorded(
        old_log_prob: Any, log_prob: Any, advantages: Any, response_mask: Any, *args: Any, **kwargs: Any
    ) -> Any:
        arrays = {"logp": log_prob, "old_logp": old_log_prob, "advantage": advantages, "sample_mask": response_mask}
        recorder.write(next(calls), arrays)
        return loss(old_log_prob, log_prob, advantages, response_mask, *args, **kwargs)

    return recorded


def joined(loss: Arrays, step: Arrays) -> Arrays:
    """What a policy loss saw, with the tokens, rewards, groups and decisions of its step.

    What the step says of the old policy's distributions (`score_norm`, `stop_logp`) is left out.

    Args:
      loss: arrays of a file of `policy_loss`.
      step: arrays of the file of `record` for that step; rows are found in it by their old log-probs, bit by bit.

    Raises:
      InputError: for a row that is not in the step.
    """
    drawn = step["sample_mask"] | step["decision_mask"]
    keys = [np.where(m, x, 0.0).astype(np.float32).tobytes() for m, x in zip(drawn, step["old_logp"], strict=True)]
    seen = zip(loss["sample_mask"], loss["old_logp"], strict=True)
    wanted = [np.where(m, x, 0.0).astype(np.float32).tobytes() for m, x in seen]
    lost = [i for i, key in enumerate(wanted) if key not in set(keys)]
    require(not lost, "old_logp", f"row {lost[:1]} of a policy loss", "rows of the step's file, bit by bit")
    rows = [keys.index(key) for key in wanted]
    kept = {name: x for name, x in step.items() if name not in ("score_norm", "stop_logp")}
    rest = {name: x[rows] if np.ndim(x) and len(x) == len(keys) else x for name, x in kept.items()}
    return {**rest, **{name: loss[name] for name in ("logp", "old_logp", "advantage")}}

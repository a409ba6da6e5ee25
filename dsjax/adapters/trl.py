"""TRL: the batches of `GRPOTrainer` and `RLOOTrainer`, as `_generate_and_score_completions` returns them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.adapters.recorder import Arrays, Recorder, to_numpy


def record(trainer: Any, directory: str | Path, **options: Any) -> Recorder:
    """Write every batch that the trainer generates for training. Call it once, before `trainer.train()`.

    Args:
      trainer: of TRL; `_generate_and_score_completions` and `_calculate_rewards` of this object are wrapped.
      directory: of the files.
      **options: of `Recorder`.
    """
    processes, process = trainer.accelerator.num_processes, trainer.accelerator.process_index
    recorder = Recorder(directory, rank=process if processes > 1 else None, **options)
    generate, score, rewards = trainer._generate_and_score_completions, trainer._calculate_rewards, []

    def scored(*args: Any, **kwargs: Any) -> Any:
        rewards[:] = [score(*args, **kwargs)]
        return rewards[0]

    def generated(inputs: Any) -> Any:
        batch = generate(inputs)
        if trainer.model.training and trainer.state.global_step % recorder.every == 0:
            recorder.write(trainer.state.global_step, rollouts(trainer, batch, rewards[0]))
        return batch

    trainer._calculate_rewards, trainer._generate_and_score_completions = scored, generated
    return recorder


def rollouts(trainer: Any, batch: Mapping[str, Any], rewards_per_function: Any) -> Arrays:
    """The arrays of a batch: of B completions of this process, `num_generations` after each other of a prompt.

    Args:
      trainer: of TRL.
      batch: what `_generate_and_score_completions` returns. Where it has no `old_per_token_logps`, as TRL leaves them
        out of a batch for one update, they take a forward pass of the model.
      rewards_per_function: f[processes * B, functions], what `_calculate_rewards` returns; NaN where not applied.
    """
    drawn, tokens = to_numpy(batch["completion_mask"]).astype(bool), to_numpy(batch["completion_ids"])
    last = np.take_along_axis(tokens, drawn.shape[1] - 1 - drawn[:, ::-1].argmax(-1)[:, None], axis=1)[:, 0]
    if batch.get("tool_mask") is not None:  # text of tools is not drawn
        drawn &= to_numpy(batch["tool_mask"]).astype(bool)
    row = trainer.accelerator.process_index * len(drawn) + np.arange(len(drawn))
    weighted = to_numpy(rewards_per_function) * to_numpy(trainer.reward_weights)[None, :]
    logp = batch.get("old_per_token_logps")
    logp = log_probs(trainer, batch) if logp is None else logp
    return {
        "tokens": tokens,
        "prompt": batch["prompt_ids"],
        "sample_mask": drawn,
        "logp": logp,
        "old_logp": logp,  # the batch is made before the update
        "sampler_logp": batch.get("sampling_per_token_logps"),
        "ref_logp": batch.get("ref_per_token_logps"),
        "advantage": batch["advantages"],
        "reward": np.nansum(weighted, axis=1)[row],
        "group": row // trainer.num_generations,
        "truncated": ~np.isin(last, _ends(trainer)),
    }


def _ends(trainer: Any) -> list[int]:
    """Ids that end a completion that was not cut off; older versions of TRL know one."""
    if hasattr(trainer, "eos_token_ids"):
        return [*trainer.eos_token_ids, trainer._tokenizer.pad_token_id]
    return [trainer.eos_token_id, trainer.pad_token_id]


def log_probs(trainer: Any, batch: Mapping[str, Any]) -> Any:
    """f[B, S]: by the trainer's own model and method, which divides logits by the temperature of the sampling."""
    torch: Any = importlib.import_module("torch")
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    size, rows = batch["completion_ids"].size(1), trainer.args.per_device_train_batch_size
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, size, rows)[0]

"""NeMo-RL: `train_data_step{N}.jsonl` in its log directory, one row a trajectory, tokens and log-probs in full."""

from __future__ import annotations

import numpy as np

from dsjax.rollouts.frameworks.base import Framework, Reading, Rows, Written, answers, numbered, padded


def read(rows: Rows, reading: Reading) -> Written:
    """`prev_logprobs`: by the trainer before the update; `generation_logprobs`: by the engine that drew the tokens."""
    tokens = rows.lists("token_ids", "i")
    lengths = rows.numbers("input_lengths").astype(int)
    drawn = [x[:n] for x, n in zip(rows.lists("token_loss_mask", "b", like=tokens), lengths, strict=True)]
    arrays = answers([x[:n] for x, n in zip(tokens, lengths, strict=True)], drawn)
    mask, width, said = arrays["sample_mask"], arrays["sample_mask"].shape[1], []

    def per_token(name: str) -> np.ndarray:
        return padded(rows.lists(name, "f", like=tokens), width)

    old, sampler = per_token("prev_logprobs"), per_token("generation_logprobs")
    if old[mask].any():
        arrays |= {"logp": old, "old_logp": old}
        said.append(
            "prev_logprobs, of before the update, are logp and old_logp: those of the batch's first gradient step."
        )
        if sampler[mask].any():
            arrays["sampler_logp"] = sampler
    elif sampler[mask].any():
        arrays["logp"] = sampler
        said.append(
            "prev_logprobs are all 0: generation_logprobs in their place as logp. loss_fn.force_on_policy_ratio=false "
            "makes NeMo-RL compute them."
        )
    # A prompt is what stands before the first drawn token.
    first = np.where(mask.any(-1), mask.argmax(-1), lengths)
    arrays["group"] = numbered(x[:n].tobytes() for x, n in zip(tokens, first, strict=True))
    said.append(f"group: rows with the same prompt, {arrays['group'].max() + 1} prompts.")
    arrays["advantage"] = per_token("advantages")
    arrays["reward"] = rows.numbers("filtered_rewards" if rows.has("filtered_rewards") else "rewards")
    kept = rows.numbers("sample_loss_mask") > 0
    if not kept.all():
        arrays["weight"] = kept.astype(float)
        said.append(
            f"sample_loss_mask is 0 in {int((~kept).sum())} rows: weight 0, out of the baseline too; NeMo-RL's own "
            "baseline, in its advantages, has them."
        )
    return Written(arrays, said)


FRAMEWORK = Framework(
    name="nemo-rl",
    title="NeMo-RL",
    file=r"train_data_step\d+\.jsonl",
    told_by=("token_ids", "token_loss_mask"),
    uses=(
        "token_ids",
        "token_loss_mask",
        "sample_loss_mask",
        "advantages",
        "generation_logprobs",
        "prev_logprobs",
        "rewards",
        "filtered_rewards",
        "input_lengths",
    ),
    step=None,
    writes="written by GRPO into logger.log_dir; with NeMo-Gym unless env.should_log_nemo_gym_responses=true",
    lacks={
        "logp of later gradient steps": "no switch writes them",
        "ref_logp": "stays in the process, no switch writes it",
        "truncated": "no switch; an answer that ends in no end token is taken as cut off",
    },
    read=read,
)

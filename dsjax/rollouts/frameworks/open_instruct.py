"""open-instruct: `{run}_rollouts_{shard}.jsonl`, rows of many steps, answers as tokens with the engine's log-probs."""

from __future__ import annotations

import numpy as np

from dsjax.rollouts.frameworks.base import Framework, Reading, Rows, Written, answers, numbered, padded


def read(rows: Rows, reading: Reading) -> Written:
    """`logprobs` are of vLLM, in the place of the trainer's; rows that called tools are left out."""
    tokens = rows.lists("response_tokens", "i")
    arrays, said = answers(tokens), []
    if rows.has("logprobs"):
        arrays["logp"] = padded(rows.lists("logprobs", "f", like=tokens))
        said.append("logp: the log-probs of vLLM, which drew the tokens, in the place of the trainer's own.")
    arrays["group"] = numbered(rows.values("prompt_idx"))
    arrays["advantage"], arrays["reward"] = rows.numbers("advantage"), rows.numbers("reward")
    arrays["truncated"] = np.array([reason != "stop" for reason in rows.values("finish_reason")])
    infos = [row.get("request_info") or {} for row in rows.rows]
    tools = np.array([bool(info.get("tool_calleds")) for info in infos])
    if tools.any():
        arrays["weight"] = (~tools).astype(float)
        said.append(
            f"{int(tools.sum())} rows called tools, whose words the file does not tell from the model's: weight 0."
        )
    return Written(arrays, said)


FRAMEWORK = Framework(
    name="open-instruct",
    title="open-instruct",
    file=r".+_rollouts_\d{6}\.jsonl",
    told_by=("response_tokens", "finish_reason", "prompt_idx"),
    uses=(
        "step",
        "prompt_idx",
        "response_tokens",
        "reward",
        "advantage",
        "finish_reason",
        "logprobs",
        "request_info",
    ),
    step="step",
    writes="written with --save_traces --rollouts_save_path DIR",
    lacks={
        "old_logp": "the trainer's own log-probs are in no rollout file; --on-policy takes logp for them",
        "ref_logp": "no switch writes it",
        "masks of tools": "no switch writes them: rows that called tools get weight 0",
    },
    read=read,
)

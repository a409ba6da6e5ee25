"""TRL: `completions/completions_{step}.parquet`, text and advantages; tokens only where a reward function logs them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dsjax.errors import InputError, require
from dsjax.rollouts.frameworks.base import Framework, Reading, Rows, Written, answers, from_text, numbered

KEYS = ("step", "prompt", "completion", "completion_ids", "advantage")


def read(rows: Rows, reading: Reading) -> Written:
    """The reward is the sum of the reward columns, with the weights that the user gives."""
    if rows.has("completion_ids"):
        written = Written(answers(rows.lists("completion_ids", "i")), ["tokens: the column completion_ids."])
    else:
        texts = [_text(x, i) for i, x in enumerate(rows.values("completion"), 1)]
        written = from_text(texts, "TRL", "max_completion_length", reading)
    said = [*written.said]
    arrays = {**written.arrays, "group": numbered(json.dumps(x, sort_keys=True) for x in rows.values("prompt"))}
    if rows.has("advantage"):
        arrays["advantage"] = rows.numbers("advantage")
    numeric = [name for name in rows.rows[0] if name not in KEYS and _numeric(rows, name)]
    for name in reading.rewards:
        require(name in numeric, "reward", name, numeric or "none: the file has no column of numbers")
    weights = dict(reading.rewards) or dict.fromkeys(numeric, 1.0)
    if weights:
        # A function that does not apply to a row leaves nothing there, and counts 0 as in TRL.
        columns = {name: np.array([row[name] for row in rows.rows], np.float64) for name in weights}
        arrays["reward"] = np.sum([weight * np.nan_to_num(columns[name]) for name, weight in weights.items()], axis=0)
        terms = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())
        end = "" if reading.rewards else " (reward_weights are not in the file: --reward NAME=WEIGHT)"
        said.append(f"reward: {terms}{end}.")
    return Written(arrays, said)


def _numeric(rows: Rows, name: str) -> bool:
    return all(x is None or isinstance(x, float | int) for x in (row.get(name) for row in rows.rows))


def _text(completion: Any, number: int) -> str:
    """The words of the assistant: a text, or those of its messages."""
    if isinstance(completion, str):
        return completion
    try:
        return "".join(m["content"] or "" for m in completion if m["role"] == "assistant")
    except (TypeError, KeyError) as error:
        raise InputError("completion", f"{completion!r:.60} in row {number}", "a text, or messages") from error


FRAMEWORK = Framework(
    name="trl",
    title="TRL",
    file=r"completions_\d+\.parquet",
    told_by=("step", "prompt", "completion"),
    uses=(),
    step="step",
    writes="written with log_completions=True, into output_dir/completions, every logging_steps steps",
    lacks={
        "log-probs": "no switch writes them, an adapter in the process does (docs/adapters.md); without them, "
        "attribute --on-policy tells coefficients and signs",
        "tokens": 'a reward function that calls log_extra("completion_ids", completion_ids) writes them',
        "truncated": "no switch; --max-tokens, or the last of completion_ids",
    },
    read=read,
)

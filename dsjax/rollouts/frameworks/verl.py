"""verl: `{step}.jsonl` in `trainer.rollout_data_dir`, text and scores."""

from __future__ import annotations

from dsjax.rollouts.frameworks.base import Framework, Reading, Rows, Written, from_text, numbered


def read(rows: Rows, reading: Reading) -> Written:
    """Rows of one prompt are those with the same input."""
    written = from_text(rows.texts("output"), "verl", "data.max_response_length", reading)
    group = numbered(rows.texts("input"))
    said = [*written.said, f"group: rows with the same input, {group.max() + 1} prompts."]
    return Written({**written.arrays, "group": group, "reward": rows.numbers("score")}, said)


FRAMEWORK = Framework(
    name="verl",
    title="verl",
    file=r"\d+\.jsonl",
    told_by=("input", "output", "score"),
    uses=("input", "output", "score", "step"),
    step="step",
    writes="written with trainer.rollout_data_dir=DIR",
    lacks={
        "log-probs": "no switch writes them, an adapter in the process does (docs/adapters.md); without them, "
        "attribute --on-policy tells coefficients and signs",
        "tokens, masks of tools": "no switch writes them: words of tools in the output count as the model's",
        "advantage": "no switch writes it; objectives compute theirs from the scores",
        "truncated": "no switch; --max-tokens",
    },
    read=read,
)

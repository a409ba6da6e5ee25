"""`dsjax attribute FILE.npz`: the attribution tables of rollouts that come from somewhere else."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text
from tyro.conf import Positional

from dsjax.cli.flags import Pairs, options
from dsjax.cli.terminal import estimate, number, require_files, table, terminal, waiting, writing
from dsjax.errors import require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.rollouts.diagnosis import Diagnosis

CONVENTIONS = {"factor": "(i) per factor", "token": "(ii) per token", "block": "(iii) per trajectory"}
QUANTITIES = {
    "sample": "pi_sample",
    "decision": "pi_d",
    "share": "decision share",
    "signed_sample": "signed, pi_sample",
    "signed_decision": "signed, pi_d",
}
GRADIENT_ROWS = {
    "signal_sample": "|E[g_s]|^2",
    "signal_decision": "|E[g_d]|^2",
    "signal_share": "decision share of both",
    "noise_sample": "noise of one estimate, sampler",
    "noise_decision": "noise of one estimate, decider",
    "cosine_of_means": "cosine of the means (noise included)",
}


def attribute(
    file: Positional[Path],
    *,
    objective: str = "grpo",
    option: Pairs = (),
    decision_choices: int | None = None,
    on_policy: bool = False,
    logp_tolerance: float | None = None,
    success: float | None = None,
    resamples: int | None = None,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Attribution of rollouts from elsewhere: log-probs, masks, rewards in one .npz.

    Args:
      file: The .npz file (format: docs/attribute.md).
      objective: A name of the registry, or module:function.
      option: Option of the objective, e.g. clip=0.1.
      decision_choices: 2 if decisions are drawn from STOP and RESAMPLE alone, else the size of the vocabulary; where
        the file does not say.
      on_policy: The tokens were drawn under logp; where the file has no old_logp.
      logp_tolerance: Log-probs up to this are read as 0; 0.01 for bfloat16.
      success: Returns from here on count as success; midway between the smallest and the largest by default.
      resamples: Of the bootstrap; 1000 by default.
      seed: Of the bootstrap.
      json: Also write every number to this file.
    """
    require_files(file, json=json)
    chosen = options(objective, option)
    from dsjax.io import write_json
    from dsjax.rollouts import attribute_rollouts
    from dsjax.rollouts.format import read, unknown
    from dsjax.statistics import RESAMPLES

    console = terminal()
    arrays, left = read(file), unknown(file)
    if left:
        console.print(Text(f"Arrays without a meaning here, not read: {', '.join(left)}"))
    if decision_choices is not None:
        given = arrays.setdefault("decision_choices", decision_choices)
        require(int(given) == decision_choices, "decision_choices", decision_choices, f"{given}, as in the file")
    number_of = RESAMPLES if resamples is None else resamples
    with waiting(console, "Reading and resampling"):
        found = attribute_rollouts(
            objective,
            chosen,
            success=success,
            resamples=number_of,
            seed=seed,
            on_policy=on_policy,
            logp_tolerance=logp_tolerance,
            **arrays,
        )
    show(found, console)
    if json is not None:
        with writing("json", json):
            write_json(json, found.to_json())
    return 0


def _percent(x: float | None) -> str:
    return "-" if x is None or isnan(x) else f"{100 * x:.0f} %"


def show(found: Diagnosis, console: Console) -> None:
    """Print the tables."""
    counts = found.rollouts
    shown = table("Rollouts", "", "")
    groups = "-" if counts["groups"] is None else str(counts["groups"])
    for label, value in {
        "trajectories, groups": f"{counts['trajectories']}, {groups}",
        "sampling tokens, answers": f"{counts['sampling_tokens']}, {counts['answers']}",
        "tokens an answer: mean": number(counts["answer_length_mean"]),
        "  min, quartiles, max": " ".join(map(str, counts["answer_length_quantiles"])) or "-",
        "decisions, per trajectory": f"{counts['decisions']}, {counts['decisions_per_trajectory']:.4g}",
        "ended by STOP, RESAMPLE": f"{counts['ended_by_stop']}, {counts['ended_by_resample']}",
        "ended without a decision": str(counts["ended_without_decision"]),
        "cut off": "not given" if counts["truncated"] is None else str(counts["truncated"]),
        "STOP and RESAMPLE known": counts["decision_types"],
        "mean return, variance": f"{number(counts['mean_reward'])}, {number(counts['reward_variance'])}",
        "net over gross, pi_sample, pi_d": ", ".join(map(_percent, found.health["net_over_gross"].values())),
    }.items():
        shown.add_row(label, value)
    console.print(shown)
    for note in found.notes:
        console.print(Text(f"- {note}"))

    settings = ", ".join(f"{k} = {v}" for k, v in found.options.items())
    title = f"Coefficients of {found.objective}" + (f" ({settings})" if settings else "")
    shown = table(escape(title), "", *CONVENTIONS.values())
    for quantity, label in QUANTITIES.items():
        shown.add_row(label, *(estimate(found.conventions[unit][quantity]) for unit in CONVENTIONS))
    console.print(shown)

    shown = table("Decisions", "drawn", "count", "coefficient", "up", "down", "push on\nSTOP logit", "sign\nagrees")
    for name, d in found.decisions.items():
        agrees = _percent(found.outcome[name]["agrees"].value) if name in found.outcome else "-"
        pushes = (_percent(d["pushed_up"]), _percent(d["pushed_down"]), number(d["push_on_stop_logit"]))
        shown.add_row(name, str(d["count"]), number(d["mean_coefficient"]), *pushes, agrees)
    console.print(shown)

    shown = table("Second moment of one trajectory's gradient, in logit space", "", "from", "to", "")
    for quantity, label in (("sample", "pi_sample"), ("decision", "pi_d"), ("share", "decision share")):
        row = found.logit_space[quantity]
        shown.add_row(label, estimate(row["lower"]), estimate(row["upper"]), row["status"])
    console.print(shown)

    if found.gradients is not None:
        shown = table(f"Gradients of the file ({found.gradients['estimates']} estimates), Euclidean", "", "")
        for name, label in GRADIENT_ROWS.items():
            shown.add_row(Text(label), estimate(found.gradients[name]))
        console.print(shown)

    shown = table("What these arrays can tell", "quantity", "status", "why")
    for column, wraps in zip(shown.columns, (True, False, True), strict=True):
        column.justify, column.no_wrap = "left", not wraps
    for row in found.availability:
        shown.add_row(Text(row["quantity"]), row["status"], Text(row["why"]))
    console.print(shown)
    console.print(Text(found.reading))

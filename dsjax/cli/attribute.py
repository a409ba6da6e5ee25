"""`dsjax attribute FILE.npz`: print the attribution tables of rollouts that come from somewhere else."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dsjax.errors import InputError
from dsjax.io import write_json
from dsjax.rollouts import Diagnosis, attribute_rollouts
from dsjax.rollouts.format import read
from dsjax.statistics import Estimate

CONVENTIONS = {"factor": "(i) per factor", "token": "(ii) per token", "block": "(iii) block, per trajectory"}
GRADIENT_ROWS = {
    "signal_sample": "|E[g_s]|^2",
    "signal_decision": "|E[g_d]|^2",
    "signal_share": "decision share of both",
    "noise_sample": "noise of one estimate, sampler",
    "noise_decision": "noise of one estimate, decider",
    "cosine_of_means": "cosine of the means (noise included)",
}


def attribute(
    file: Path,
    objective: str,
    options: Mapping[str, Any] | None,
    json: Path | None,
    console: Console,
) -> int:
    """Read, diagnose, print, and write every number to `json` if given.

    Args:
      file: .npz with the arrays of docs/attribute.md.
      objective: a name of the registry or `module:function`.
      options: its options.
      json: where to write the numbers; None for nowhere.
      console: where to print.

    Returns:
      Exit status 0.

    Raises:
      InputError: for a file or an objective that cannot be used.
    """
    found = attribute_rollouts(objective, options, **read(file))
    _print(found, console)
    if json is not None:
        try:
            write_json(json, found.to_json())
        except OSError as error:
            raise InputError("json", str(json), f"a file that can be written ({error.strerror})") from error
    return 0


def _number(x: float | None) -> str:
    return "-" if x is None or isnan(x) else f"{x:.4g}"


def _percent(x: float | None) -> str:
    return "-" if x is None or isnan(x) else f"{100 * x:.0f} %"


def _cell(e: Estimate) -> str:
    if not e:
        return "-"
    value, low, high = (_number(x) for x in (e.value, e.low, e.high))
    certain = low == "-" or low == value == high
    return value if certain else f"{value}\n{low}..{high}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _print(found: Diagnosis, console: Console) -> None:
    counts = found.rollouts
    table = _table("Rollouts", "", "")
    lengths = " ".join(map(str, counts["answer_length_quantiles"])) or "-"
    groups = "-" if counts["groups"] is None else str(counts["groups"])
    table.add_row("trajectories, groups", f"{counts['trajectories']}, {groups}")
    table.add_row("sampling tokens, answers", f"{counts['sampling_tokens']}, {counts['answers']}")
    table.add_row("tokens an answer: mean", _number(counts["answer_length_mean"]))
    table.add_row("  min, quartiles, max", lengths)
    table.add_row("decisions, per trajectory", f"{counts['decision_tokens']}, {counts['decisions_per_trajectory']:.4g}")
    table.add_row("ended by STOP, RESAMPLE", f"{counts['ended_by_stop']}, {counts['ended_by_resample']}")
    table.add_row("ended without a decision", str(counts["ended_without_decision"]))
    table.add_row("STOP and RESAMPLE known", counts["decision_types"])
    table.add_row("mean return, variance", f"{_number(counts['mean_reward'])}, {_number(counts['reward_variance'])}")
    console.print(table)

    settings = ", ".join(f"{k} = {v}" for k, v in found.options.items())
    title = f"Coefficients of {found.objective}" + (f" ({settings})" if settings else "")
    table = _table(
        escape(title), "convention", "pi_sample", "pi_d", "decision share", "signed\npi_sample", "signed\npi_d"
    )
    for unit, label in CONVENTIONS.items():
        row = found.conventions[unit]
        columns = ("sample", "decision", "share", "signed_sample", "signed_decision")
        table.add_row(label, *(_cell(row[c]) for c in columns))
    console.print(table)

    table = _table("Decisions", "drawn", "count", "coefficient", "up", "down", "push on logit of STOP", "sign agrees")
    for name, d in found.decisions.items():
        agrees = _percent(found.outcome[name]["agrees"].value) if name in found.outcome else "-"
        pushes = (_percent(d["pushed_up"]), _percent(d["pushed_down"]), _number(d["push_on_stop_logit"]))
        table.add_row(name, str(d["count"]), _number(d["mean_coefficient"]), *pushes, agrees)
    console.print(table)

    table = _table("Second moment of one trajectory's gradient, in logit space", "", "from", "to", "")
    for quantity, label in (("sample", "pi_sample"), ("decision", "pi_d"), ("share", "decision share")):
        row = found.logit_space[quantity]
        table.add_row(label, _cell(row["lower"]), _cell(row["upper"]), row["status"])
    console.print(table)

    if found.gradients is not None:
        table = _table(f"Gradients of the file ({found.gradients['estimates']} estimates), Euclidean", "", "")
        for name, label in GRADIENT_ROWS.items():
            table.add_row(Text(label), _cell(found.gradients[name]))
        console.print(table)

    table = _table("What these arrays can tell", "quantity", "status", "why")
    for row in found.availability:
        table.add_row(Text(row["quantity"]), row["status"], Text(row["why"]))
    console.print(table)
    console.print(Text(found.reading))

"""What an objective does to both components over training, from the rows of `dsjax.rollouts.course`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsjax.figures.style import Row, footer, line_style, new_figure, number, styled, write

ENDS = ("value", "low", "high")
# Panels: title, unit, and the lines with their names in a row.
PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Decision share", "fraction", {"of |c|, by tokens": "decision_share", "per factor": "decision_share_per_factor"}),
    ("Sign agrees with the outcome", "fraction", {"STOP": "sign_agrees_stop", "RESAMPLE": "sign_agrees_resample"}),
    ("Drawn decisions", "count", {"STOP": "stop", "RESAMPLE": "resample"}),
    ("P(STOP) at drawn decisions", "probability", {"right": "p_stop_right", "wrong": "p_stop_wrong"}),
    ("Return", "mean, fraction", {"mean return": "mean_reward", "success rate": "success_rate"}),
    (
        "Signal to noise of one estimate",
        "ratio",
        {"pi_sample": "signal_to_noise_sample", "pi_d": "signal_to_noise_decision"},
    ),
)


def draw_course(rows: Sequence[dict[str, Any]], directory: Path, title: str) -> list[Path]:
    """`course.png`, `.svg` and `.csv`: a panel for each question, steps along; returns the files."""
    with styled():
        return write(directory / "course", _course(rows, title), _table(rows))


def _table(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """One line a step; an estimate has a column for its value and for each end."""
    names = [name for *_, lines in PANELS for name in lines.values()]
    out = []
    for row in rows:
        line: Row = {"step": row["step"]}
        for name in names:
            x = row[name]
            line |= {name if e == "value" else f"{name}_{e}": x[e] for e in ENDS} if isinstance(x, dict) else {name: x}
        out.append(line)
    return out


def _course(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    figure = new_figure(10.5, 5.6, title)
    of_answers = {row["right_is_known_of"] for row in rows} == {"answer"}
    for ax, (head, unit, lines) in zip(figure.subplots(2, 3, sharex=True).flat, PANELS, strict=True):
        shown = [_line(ax, rows, name, label, i) for i, (label, name) in enumerate(lines.items())]
        ax.set(title=head, ylabel=unit)
        if any(shown):
            ax.legend()
        else:
            why = "no gradients in the files" if "Signal" in head else "nothing known"
            ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color="0.4")
    for ax in figure.axes[3:]:
        ax.set_xlabel("step of training")
    known = "right: the answer before the decision" if of_answers else "right: how the trajectory ends"
    footer(figure, f"95 % bootstrap intervals over groups (gradients: over estimates), file by file; {known}")
    return figure


def _line(ax: Axes, rows: Sequence[dict[str, Any]], name: str, label: str, i: int) -> bool:
    """Draw one line with its band; whether there was anything to draw."""
    steps = [row["step"] for row in rows]
    values = [row[name] if isinstance(row[name], dict) else dict.fromkeys(ENDS, row[name]) for row in rows]
    middle, low, high = ([number(x[end]) for x in values] for end in ENDS)
    if all(x != x for x in middle):
        return False
    style = line_style(i)
    ax.plot(steps, middle, label=label, markevery=max(1, len(steps) // 12), **style)
    ax.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return True

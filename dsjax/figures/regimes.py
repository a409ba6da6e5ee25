"""C2 to C4: predicted regret against what came, which regimes reward wins and by what, and accuracy in against out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from dsjax.figures.style import (
    Drawn,
    Row,
    Source,
    arm_handles,
    arm_style,
    figure,
    footer,
    line_style,
    new_figure,
    number,
    picked,
)
from dsjax.statistics import Estimate

INSIDE = "in"
CARRIERS = {
    "sampler": ("#0072B2", "s"),
    "mix": ("#CC79A7", "^"),
    "decider": ("#D55E00", "o"),
    "none told apart": ("#777777", "X"),
}
MOST_IN_LEGEND = 12


def _with_ends(name: str, e: Estimate) -> Row:
    """Value and interval under a name; Student's interval over seeds where there is one."""
    low, high = (e.t_low, e.t_high) if math.isfinite(e.t_low) else (e.low, e.high)
    values = (e.value, low, high)
    return dict(
        zip((name, f"{name}_low", f"{name}_high"), (v if math.isfinite(v) else None for v in values), strict=True)
    )


def cell_rows(regimes: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row for each regime, history, cell and split; numbers that there are not are None."""
    rows = []
    for regime, report in regimes.items():
        for history, entry in report["histories"].items():
            for cell in entry.get("cells", ()):
                terms, equal = cell.get("terms", {}), cell.get("equal", {})
                found = {
                    "gap": cell.get("gap"),
                    "at_equal": equal.get("gap"),
                    "regret": cell["predicted"].get("regret"),
                }
                found |= {"ceiling": cell["predicted"].get(cell["ceiling"])}
                found |= {name: terms.get(name) for name in ("sampler", "mix", "decider")}
                row: Row = {"regime": regime, "history": history, "cell": cell["id"], "split": cell["split"]}
                row |= {"arm": cell["arm"], "against": cell["against"]}
                for name, e in found.items():
                    row |= _with_ends(name, Estimate.from_json(e))
                rows.append({**row, "carrier": cell.get("carrier", ""), "verdict": cell["verdict"]})
    return rows


def _ends(row: Row, name: str) -> tuple[float, float, float]:
    value, low, high = (number(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return value, value if math.isnan(low) else low, value if math.isnan(high) else high


@figure("C2", "predicted_regret", of="regimes")
def predicted_regret(source: Source) -> Drawn | None:
    """C2: the gap between reward and imitation against the regret of imitation that the bases predicted, every cell."""
    rows = [r for r in cell_rows(source.regimes) if r["gap"] is not None and r["regret"] is not None]
    if not rows:
        return None
    fig = new_figure(8.6, 5.4, "What a threshold could earn, and what reward earned")
    ax = fig.subplots()
    cells = list(dict.fromkeys((r["regime"], r["cell"]) for r in rows))
    for i, (regime, cell) in enumerate(cells):
        style = {**line_style(i), "linestyle": "none"}
        for row in picked(rows, regime=regime, cell=cell):
            (x, x_low, x_high), (y, y_low, y_high) = _ends(row, "regret"), _ends(row, "gap")
            face = style["color"] if row["split"] == INSIDE else "white"
            ax.plot([x_low, x_high], [y, y], color=style["color"], linewidth=0.8, alpha=0.6)
            ax.plot([x, x], [y_low, y_high], color=style["color"], linewidth=1.0)
            ax.plot([x], [y], **{**style, "markerfacecolor": face, "markersize": 6})
    most = max(_ends(r, "regret")[2] for r in rows)
    ax.plot([0, most], [0, most], color="0.4", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    ax.axhline(0, color="0.6", linewidth=0.7, zorder=1)
    ax.set(
        xlabel="predicted regret of imitation, from the base alone (accuracy)",
        ylabel="gap in accuracy: reward less imitation",
    )
    ax.grid(True, color="0.93", linewidth=0.6)
    handles = [
        Line2D([], [], label=f"{regime}: {cell}", **{**line_style(i), "linestyle": "none"})
        for i, (regime, cell) in enumerate(cells[:MOST_IN_LEGEND])
    ]
    handles.append(Line2D([], [], label="gap = predicted regret", color="0.4", linewidth=0.9, linestyle=(0, (4, 2))))
    fig.legend(handles=handles, loc="outside right center")
    footer(
        fig,
        "full: in distribution, open: out; 95 % intervals: Student's over seeds; regret: bases, problems",
    )
    return Drawn(rows, fig)


@figure("C3", "regime_map", of="regimes")
def regime_map(source: Source) -> Drawn | None:
    """C3: reward less imitation out of distribution, a line each cell, coloured by the term that carries it."""
    rows = [r for r in cell_rows(source.regimes) if r["split"] != INSIDE]
    if not rows:
        return None
    fig = new_figure(9.6, 1.5 + 0.3 * len(rows), "Out of distribution: reward less imitation")
    ax = fig.subplots()
    for i, row in enumerate(rows):
        value, low, high = _ends(row, "gap")
        if math.isnan(value):
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            ax.text(0, i, row["verdict"], fontsize=7.5, color="0.3", ha="center", va="center", bbox=box)
            continue
        colour, marker = CARRIERS[row["carrier"]]
        ax.plot([low, high], [i, i], color=colour, linewidth=1.6)
        ax.plot([value], [i], color=colour, marker=marker, markersize=7, linestyle="none")
        equal = _ends(row, "at_equal")[0]
        if not math.isnan(equal):
            ax.plot([equal], [i], color=colour, marker="|", markersize=11, markeredgewidth=1.6, linestyle="none")
        if i % 2:
            ax.axhspan(i - 0.5, i + 0.5, color="0.96", zorder=0)
    ax.axvline(0, color="black", linewidth=0.7, zorder=1)
    names = [f"{r['regime']}: {r['arm']} - {r['against']}, {r['split']}" for r in rows]
    ax.set_yticks(range(len(rows)), names)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="gap in accuracy (right of 0: reward is better)")
    handles = [
        Line2D([], [], label=name, color=colour, marker=marker, linestyle="none", markersize=7)
        for name, (colour, marker) in CARRIERS.items()
    ]
    handles.append(
        Line2D([], [], label="at equal accuracy inside", color="0.3", marker="|", markersize=11, linestyle="none")
    )
    fig.legend(handles=handles, loc="outside right upper", title="carried by")
    footer(
        fig,
        "carried by: the largest term of the log-odds (T22) whose interval excludes 0; 95 % intervals over seeds",
    )
    return Drawn(rows, fig)


@figure("C4", "frontier", of="regimes")
def frontier(source: Source) -> Drawn | None:
    """C4: accuracy in against out of distribution along training, each arm and seed, a panel a regime and split.

    Drawn are the arms that a study says should be shown, or all; the rows have all.
    """
    rows: list[Row] = []
    for regime, report in source.regimes.items():
        for history, entry in report["histories"].items():
            for arm, curves in entry.get("frontier", {}).items():
                for split in (s for s in curves if s not in ("step", INSIDE)):
                    for s, seed in enumerate(entry["seeds"]):
                        pairs = zip(curves["step"], curves[INSIDE][s], curves[split][s], strict=True)
                        place = {"regime": regime, "history": history, "split": split, "arm": arm, "seed": seed}
                        rows += [{**place, "step": k, "inside": x, "outside": y} for k, x, y in pairs]
    if not rows:
        return None
    panels = list(dict.fromkeys((r["regime"], r["history"], r["split"]) for r in rows))
    shown = {name: report.get("shown", ()) for name, report in source.regimes.items()}
    arms = list(dict.fromkeys(r["arm"] for r in rows if r["arm"] in (shown[r["regime"]] or [r["arm"]])))
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    fig = new_figure(
        3.9 * columns + 2.0, 3.5 * lines + 0.9, "The frontier: accuracy in and out of distribution along training"
    )
    grid: Any = fig.subplots(lines, columns, squeeze=False)
    for ax, (regime, history, split) in zip(grid.flat, panels, strict=False):
        of = picked(rows, regime=regime, history=history, split=split)
        for arm in arms:
            style = arm_style(arm)
            mine = picked(of, arm=arm)
            for seed in dict.fromkeys(r["seed"] for r in mine):
                path = picked(mine, seed=seed)
                x, y = (np.array([number(r[k]) for r in path]) for k in ("inside", "outside"))
                ax.plot(x, y, color=style["color"], linewidth=0.8, alpha=0.55, linestyle=style["linestyle"])
                ax.plot(x[-1:], y[-1:], **{**style, "linestyle": "none"})
                ax.plot(x[:1], y[:1], color="black", marker="+", markersize=6, linestyle="none")
        ax.set(xlabel="accuracy in distribution", ylabel="accuracy out of distribution", title=f"{regime}\n{split}")
        ax.grid(True, color="0.93", linewidth=0.6)
    for ax in list(grid.flat)[len(panels) :]:
        ax.set_visible(False)
    handles = arm_handles(arms)
    handles.append(Line2D([], [], label="base", color="black", marker="+", linestyle="none"))
    fig.legend(handles=handles, loc="outside right center", handlelength=3.0)
    footer(
        fig, "a line each seed, a marker where it ends; final accuracy on the problems of the curves, without intervals"
    )
    return Drawn(rows, fig)

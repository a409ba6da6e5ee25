"""C2 to C4: predicted regret against what came, which regimes reward wins and by what, and accuracy in against out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

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
CARRIERS = {"sampler": "#0072B2", "mix": "#CC79A7", "decider": "#D55E00", "none told apart": "#777777"}
MOST_IN_LEGEND = 20


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
    regimes = list(dict.fromkeys(r["regime"] for r in rows))
    for i, regime in enumerate(regimes):
        style = {**line_style(i), "linestyle": "none"}
        for row in picked(rows, regime=regime):
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
        Line2D([], [], label=regime, **{**line_style(i), "linestyle": "none"})
        for i, regime in enumerate(regimes[:MOST_IN_LEGEND])
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
    """C3: reward less imitation out of distribution: a row a regime and split, a column a comparison.

    A gap is coloured, by the term that carries it, where its interval excludes 0: strongly where reward is better.
    """
    rows = [r for r in cell_rows(source.regimes) if r["split"] != INSIDE]
    if not rows:
        return None
    lines = list(dict.fromkeys((r["regime"], r["split"]) for r in rows))
    columns = list(dict.fromkeys((r["arm"], r["against"]) for r in rows))
    width, height = 4.2 + 1.25 * len(columns), 1.6 + 0.36 * len(lines)
    fig = new_figure(width, height, "Out of distribution: gap in accuracy, reward less imitation")
    ax = fig.subplots()
    for row in rows:
        x, y = columns.index((row["arm"], row["against"])), lines.index((row["regime"], row["split"]))
        value, low, high = _ends(row, "gap")
        if math.isnan(value):
            ax.text(x, y, row["verdict"].split(" (")[0], fontsize=6.5, color="0.4", ha="center", va="center")
            continue
        told = low > 0 or high < 0
        if told:
            colour = CARRIERS[row["carrier"]]
            box = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none")
            box.set_alpha(0.55 if value > 0 else 0.2)
            ax.add_patch(box)
        text = f"{value:+.3f}\n[{low:+.2f}, {high:+.2f}]"
        weight = "bold" if told and value > 0 else "normal"
        ax.text(x, y, text, fontsize=6.5, color="black" if told else "0.45", ha="center", va="center", weight=weight)
    for i in range(1, len(lines)):
        if lines[i][0] != lines[i - 1][0]:
            ax.axhline(i - 0.5, color="0.7", linewidth=0.7)
    ax.set_xticks(range(len(columns)), [f"{arm}\n- {against}" for arm, against in columns], fontsize=8)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(lines)), [f"{regime}: {split}" for regime, split in lines], fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    handles = [Patch(facecolor=colour, alpha=0.55, label=name) for name, colour in CARRIERS.items()]
    title = "carried by\n(strong, bold: reward is better;\nweak: imitation is;\nnone: the interval has 0)"
    fig.legend(handles=handles, loc="outside right center", title=title, fontsize=8, title_fontsize=8)
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
    columns = min(3, len(panels)) if len(panels) < 10 else math.ceil(math.sqrt(2 * len(panels)))
    lines, size = math.ceil(len(panels) / columns), 3.7 if len(panels) < 10 else 2.2
    fig = new_figure(
        size * columns + 2.2,
        0.95 * size * lines + 0.9,
        "The frontier: accuracy in and out of distribution along training",
    )
    grid: Any = fig.subplots(lines, columns, squeeze=False)
    for i, (ax, (regime, history, split)) in enumerate(zip(grid.flat, panels, strict=False)):
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
        below = "accuracy in distribution" if i + columns >= len(panels) else ""
        ax.set(xlabel=below, ylabel="" if i % columns else "out of distribution", title=f"{regime}\n{split}")
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

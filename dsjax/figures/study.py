"""Figures F4 to F7 and F9 of a study: its trainings, its components, and what each of them brings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dsjax.figures.gradients import curve_rows
from dsjax.figures.style import (
    TOGETHER,
    Drawn,
    Row,
    Source,
    arm_handles,
    arm_style,
    blocks,
    estimate,
    figure,
    footer,
    new_figure,
    number,
    numbers,
    picked,
)
from dsjax.statistics import Estimate
from dsjax.training.arms import ARMS
from dsjax.training.config import BASE

COMPONENTS = ("p", "a", "b", "youden", "auroc", "brier", "accuracy", "accuracy_at_base_rate", "gain", "rounds")
WEIGHTED = ("sft-self", "sft-self-sqrt-l", "sft-self-l")  # F9: decision weights 1, sqrt(L), L
LEVELS = (BASE, "rloo")  # F9: shown for comparison
PARTS = {"sampler": "#0072B2", "decider": "#D55E00"}
WIDEST = 22.0  # inches of panels side by side


@figure("F4", "training_curves")
def training_curves(source: Source) -> Drawn:
    """F4: final accuracy, p and AUROC while training, per split, and the decision share of the gradient."""
    labels = {
        "accuracy": f"final accuracy at T = {source.rounds}",
        "p": "p = P(right), one attempt",
        "auroc": "AUROC of STOP",
    }
    rows = curve_rows(source, "evaluation", (*labels,))
    shares = curve_rows(source, "gradient", ("share",))
    groups = blocks(source.arms)
    high = len(source.splits) + 1
    fig = new_figure(12.0, 2.5 * high * len(groups) + 0.8, "Training curves")

    def lines(ax: Any, arms: Sequence[str], rows: Any, marks: int, **fields: Any) -> None:
        for arm in sorted(source.arms, key=lambda arm: arm in arms):  # those of other parts stay as a background
            found = picked(rows, arm=arm, **fields)
            mean = [number(row["mean"]) for row in found]
            style = arm_style(arm) if arm in arms else {"color": "0.85", "linewidth": 1.0}
            ax.plot([row["step"] for row in found], mean, markevery=max(1, len(found) // marks), **style)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid(True, color="0.92", linewidth=0.6)

    parts: Any = fig.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for part, arms in zip(parts, groups, strict=True):
        grid = part.add_gridspec(high, 3)
        for r, (split, name) in enumerate(source.splits.items()):
            for c, (key, label) in enumerate(labels.items()):
                ax = part.add_subplot(grid[r, c])
                lines(ax, arms, rows, 10, split=split, measure=key)
                if key == "auroc":
                    ax.axhline(0.5, color="0.6", linewidth=0.7, zorder=1)
                ax.set(ylabel=label, xlabel="update")
                if c == 1:
                    ax.set_title(name, fontweight="bold")
        ax = part.add_subplot(grid[len(source.splits), :])
        lines(ax, arms, shares, 15)
        ax.set_title("decision share of the gradient", fontweight="bold")
        ax.set(xlabel="update", ylabel="decision share (fraction)")
        ax.set_ylim(bottom=0)
        part.legend(handles=arm_handles(arms), loc="outside right upper", title="arm", handlelength=3.2)
    several = f"means of {source.seeds} trainings, without intervals"
    footer(
        fig,
        "share: of one batch's gradient (signal and noise), Euclidean in parameter space; grey line: AUROC of a blind"
        f" decider; {several if source.seeds > 1 else 'point values without intervals; one seed'}",
    )
    return Drawn(rows, fig)


@figure("F5", "components")
def components(source: Source) -> Drawn:
    """F5: p, a and b of every model with intervals, and the ROC curves of STOP."""
    rows = [
        {"split": split, "model": m, "measure": key, **numbers(source.entry["splits"][split]["measures"][m][key])}
        for split in source.splits
        for m in source.entry["models"]
        for key in COMPONENTS
    ]
    models, groups = source.models, blocks(source.arms)
    high = max(3.2, 0.42 * len(models) + 1.0)
    fig = new_figure(7.8 + 3.4 * len(groups), high * len(source.splits) + 1.4, "The two components after training")
    panels: Any = fig.subplots(
        len(source.splits), 1 + len(groups), squeeze=False, width_ratios=(5.2, *[3.4] * len(groups))
    )
    labels = {"p": "p = P(right)", "a": "a = P(STOP | right)", "b": "b = P(STOP | wrong)"}
    looks = (("o", "#000000", "#000000"), ("s", "#0072B2", "#0072B2"), ("^", "#D55E00", "white"))
    for (left, *curves), (split, name) in zip(panels, source.splits.items(), strict=True):
        for j, (key, label) in enumerate(labels.items()):
            marker, colour, face = looks[j]
            look = {"linestyle": "none", "marker": marker, "color": colour, "markerfacecolor": face}
            left.plot([], [], label=label, **look)
            for i, model in enumerate(models):
                (row,) = picked(rows, split=split, model=model, measure=key)
                found, y = estimate(row), i + 0.24 * (j - 1)
                if found:
                    left.plot([found.low, found.high], [y, y], color=colour, linewidth=1.3, marker="|", markersize=6)
                    left.plot([found.value], [y], **look)
        for i in range(1, len(models)):
            left.axhline(i - 0.5, color="0.88", linewidth=0.8, zorder=0)
        left.set_yticks(range(len(models)), models)
        left.set(xlabel="probability", ylim=(len(models) - 0.5, -0.5), xlim=(-0.03, 1.03))
        left.set_title(name, fontweight="bold")
        for ax, arms in zip(curves, groups, strict=True):
            for model in (BASE, *arms):
                roc = source.entry["splits"][split]["roc"][model]
                if roc:
                    style = arm_style(model) | {"marker": "none"}
                    ax.plot(roc["wrong_accepted"], roc["right_accepted"], **style, label=model)
            ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, zorder=1)
            ax.set(xlabel="P(accepted | wrong)", ylabel="P(accepted | right)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            ax.set_title("ROC of STOP")
            ax.set_box_aspect(1)
            if ax.get_legend_handles_labels()[0]:  # a decider whose answers are all right or all wrong has no curve
                ax.legend(loc="lower right", fontsize=7.5, handlelength=2.4, labelspacing=0.2)
    fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center")
    footer(fig, f"bars: {source.intervals}; diagonal: a blind decider")
    return Drawn(rows, fig)


@figure("F6", "cross_swap")
def cross_swap(source: Source) -> Drawn:
    """F6: final accuracy of every sampler with every decider."""
    swap = {split: source.entry["splits"][split]["swap"] for split in source.splits}
    rows = [
        {"split": split, "sampler": s, "decider": d, **cell}
        for split in swap
        for s, row in swap[split].items()
        for d, cell in row.items()
    ]
    models = source.models
    cells = {split: [[Estimate.from_json(swap[split][s][d]) for d in models] for s in models] for split in swap}
    values = {split: np.array([[cell.value for cell in row] for row in cells[split]]) for split in swap}
    finite = np.concatenate([table[np.isfinite(table)] for table in values.values()]).tolist()
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    high = high if high > low else low + 1e-3
    intervals = len(models) <= TOGETHER
    across = max(3.0, (0.9 if intervals else 0.66) * len(models) + 0.4) + 1.1
    down = max(3.0, (0.62 if intervals else 0.42) * len(models) + 0.4) + 1.2
    beside = across * len(swap) <= WIDEST
    shape = (1, len(swap)) if beside else (len(swap), 1)
    title = "Cross-swap: each sampler (rows) with each decider (columns)"
    fig = new_figure(across * shape[1] + 1.2, down * shape[0] + 0.7, title)
    panels: Any = fig.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    colours = mpl.colormaps["cividis"].with_extremes(bad="white")
    image: Any = None
    for ax, (split, name) in zip(panels.flat, source.splits.items(), strict=True):
        table = np.ma.masked_invalid(values[split])
        image = ax.imshow(table, cmap=colours, vmin=low, vmax=high, aspect="auto")
        for r, row in enumerate(cells[split]):
            for c, cell in enumerate(row):
                if not cell:
                    ax.text(c, r, "not\ndefined", ha="center", va="center", fontsize=6.5)
                    continue
                ink = "white" if (cell.value - low) / (high - low) < 0.5 else "black"
                low_row = r - 0.13 * intervals
                ax.text(c, low_row, f"{cell.value:.3f}", ha="center", va="center", color=ink, fontsize=9.5)
                if intervals and math.isfinite(cell.low):
                    interval = f"{cell.low:.3f}–{cell.high:.3f}"
                    ax.text(c, r + 0.21, interval, ha="center", va="center", color=ink, fontsize=6.5)
        ax.set_xticks(range(len(models)), models, rotation=35, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(models)), models)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(name, fontweight="bold")
    for ax in panels[-1]:
        ax.set_xlabel("decider")
    for ax in panels[:, 0]:
        ax.set_ylabel("sampler")
    label = f"final accuracy at T = {source.rounds}"
    fig.colorbar(image, ax=list(panels.flat), label=label, fraction=0.05, pad=0.02)
    small = f"small type: {source.intervals}" if intervals else "intervals: in the CSV"
    footer(fig, f"{small}; one colour scale for all panels")
    return Drawn(rows, fig)


@figure("F7", "log_odds")
def log_odds(source: Source) -> Drawn:
    """F7: what sampler and decider each bring to the log-odds of final accuracy."""
    rows = [
        {"split": split, "difference": pair, "scale": scale, "part": part, **numbers(found[scale][part])}
        for split in source.splits
        for pair, found in source.entry["splits"][split]["accounting"].items()
        for scale in found
        for part in found[scale]
    ]
    columns = len(source.arms)
    title = f"Log-odds of final accuracy at T = {source.rounds}: from base to arm"
    if columns > TOGETHER:
        return Drawn(rows, _changes(source, rows, title))
    fig = new_figure(max(6.5, 1.95 * columns + 2.4), 2.75 * len(source.splits) + 1.1, title)
    panels: Any = fig.subplots(len(source.splits), columns, squeeze=False, sharey="row")
    for r, (split, name) in enumerate(source.splits.items()):
        measures = source.entry["splits"][split]["measures"]
        for c, arm in enumerate(source.arms):
            ends = [Estimate.from_json(measures[model]["log_odds"]).value for model in (BASE, arm)]
            steps = [
                estimate(picked(rows, split=split, difference=f"{arm} - {BASE}", scale="log_odds", part=part)[0])
                for part in ("sampler", "decider")
            ]
            panels[r, c].set_title(arm)
            _waterfall(panels[r, c], ends, steps)
        panels[r, 0].set_ylabel("{}\nlog-odds (nats)".format(name.replace(" (", "\n(")))
        panels[r, 0].margins(y=0.15)
    handles = [
        Patch(facecolor="0.8", edgecolor="black", label="base, arm"),
        Patch(facecolor=PARTS["sampler"], alpha=0.55, edgecolor="black", hatch="////", label="sampler (Shapley)"),
        Patch(facecolor=PARTS["decider"], alpha=0.55, edgecolor="black", hatch="....", label="decider (Shapley)"),
    ]
    fig.legend(handles=handles, loc="outside right center")
    footer(fig, f"bars: {source.intervals}; percentages: the log-odds as probabilities")
    return Drawn(rows, fig)


def _changes(source: Source, rows: Sequence[Row], title: str) -> Figure:
    """F7 for many arms: a row each, one panel a split."""
    arms = source.arms
    fig = new_figure(3.6 * len(source.splits) + 3.4, 0.42 * len(arms) + 2.4, title)
    panels: Any = fig.subplots(1, len(source.splits), squeeze=False, sharey=True)
    looks: dict[str, dict[str, Any]] = {
        "total": {"marker": "D", "color": "#000000", "markerfacecolor": "#000000"},
        "sampler": {"marker": "s", "color": PARTS["sampler"], "markerfacecolor": PARTS["sampler"]},
        "decider": {"marker": "^", "color": PARTS["decider"], "markerfacecolor": "white"},
    }
    for ax, (split, name) in zip(panels[0], source.splits.items(), strict=True):
        for i, arm in enumerate(arms):
            for j, (part, look) in enumerate(looks.items()):
                fields = {"split": split, "difference": f"{arm} - {BASE}", "scale": "log_odds"}
                found, y = [estimate(row) for row in picked(rows, part=part, **fields)], i + 0.24 * (j - 1)
                if found and math.isfinite(found[0].value):
                    low, high = found[0].low, found[0].high
                    ax.plot([low, high], [y, y], color=look["color"], linewidth=1.3, marker="|", markersize=6)
                    ax.plot([found[0].value], [y], linestyle="none", **look)
        for i in range(1, len(arms)):
            ax.axhline(i - 0.5, color="0.88", linewidth=0.8, zorder=0)
        ax.axvline(0, color="0.4", linewidth=0.8, zorder=1)
        ax.set_title(name.replace(" (", "\n("), fontweight="bold")
        ax.set(xlabel="change of log-odds (nats)", ylim=(len(arms) - 0.5, -0.5))
    panels[0, 0].set_yticks(range(len(arms)), arms)
    handles = [Line2D([], [], label=part, linestyle="-", **look) for part, look in looks.items()]
    fig.legend(handles=handles, loc="outside right center")
    footer(fig, f"bars: {source.intervals}; sampler and decider: Shapley")
    return fig


def _waterfall(ax: Any, ends: Sequence[float], steps: Sequence[Estimate]) -> None:
    """One panel of F7: from the base's log-odds to the arm's, by steps of sampler and decider."""
    (start, end), (sampler, decider) = ends, steps
    ax.set_xticks(range(4), ["base", "+sampler", "+decider", "arm"], rotation=40, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, 3.6)
    ax.use_sticky_edges = False
    ax.margins(y=0.15)
    if not all(math.isfinite(x) for x in (start, end, sampler.value, decider.value)):
        ax.text(0.5, 0.5, "not defined", ha="center", va="center", transform=ax.transAxes, color="0.3")
        return
    middle = start + sampler.value
    look: dict[str, Any] = {"width": 0.72, "edgecolor": "black", "linewidth": 0.7, "zorder": 2}
    ax.bar([0, 3], [start, end], color="0.8", **look)
    ax.bar(1, sampler.value, bottom=start, color=PARTS["sampler"], alpha=0.55, hatch="////", **look)
    ax.bar(2, decider.value, bottom=middle, color=PARTS["decider"], alpha=0.55, hatch="....", **look)
    for x, level in enumerate((start, middle, middle + decider.value)):
        ax.plot([x + 0.36, x + 0.64], [level, level], color="black", linewidth=0.8, zorder=3)
    for x, origin, step in ((1, start, sampler), (2, middle, decider)):
        if math.isfinite(step.low) and math.isfinite(step.high):
            interval = [origin + step.low, origin + step.high]
            ax.plot([x, x], interval, color="white", linewidth=3.2, zorder=4, solid_capstyle="butt")
            ax.plot([x, x], interval, color="black", linewidth=1.3, marker="_", markersize=6, zorder=5)
    for x, level in ((0, start), (3, end)):
        up = level >= 0
        accuracy = 1 / (1 + math.exp(-level)) if level > -700 else 0.0
        look = {"xytext": (0, 3 if up else -3), "va": "bottom" if up else "top", "fontsize": 7.5, "zorder": 6}
        ax.annotate(f"{100 * accuracy:.1f} %", (x, level), textcoords="offset points", ha="center", **look)
    ax.axhline(0, color="black", linewidth=0.6, zorder=1)


@figure("F9", "decision_weight")
def decision_weight(source: Source) -> Drawn | None:
    """F9: quality of the decider against the weight of the decision token in SFT, with reward training as a level."""
    models = [m for m in (*WEIGHTED, *LEVELS) if m in source.entry["models"]]
    if len({*WEIGHTED} & {*models}) < 2:  # one weight is no comparison
        return None
    labels = {"auroc": "AUROC of STOP", "b": "b = P(STOP | wrong)", "accuracy": "final accuracy"}
    rows = [
        {
            "split": split,
            "measure": key,
            "model": m,
            "weight": source.entry["length"] ** ARMS[m].length_power if m in WEIGHTED else None,
            **numbers(source.entry["splits"][split]["measures"][m][key]),
        }
        for split in source.splits
        for key in labels
        for m in models
    ]
    fig = new_figure(3.6 * len(source.splits) + 1.6, 7.4, "Does a heavier decision token teach SFT to decide?")
    panels: Any = fig.subplots(len(labels), len(source.splits), squeeze=False)
    for r, (key, label) in enumerate(labels.items()):
        for c, (split, name) in enumerate(source.splits.items()):
            ax = panels[r, c]
            found = {row["model"]: (row["weight"], estimate(row)) for row in picked(rows, split=split, measure=key)}
            weighted = [found[m] for m in WEIGHTED if m in found and found[m][1]]
            ax.errorbar(
                [weight for weight, _ in weighted],
                [e.value for _, e in weighted],
                yerr=[[e.value - e.low for _, e in weighted], [e.high - e.value for _, e in weighted]],
                color=arm_style(WEIGHTED[0])["color"],
                marker="o",
                capsize=3,
                label="SFT on the base's labelled answers",
            )
            for model in (m for m in LEVELS if m in found):
                level = found[model][1]
                if level:
                    style = arm_style(model)
                    ax.axhline(level.value, color=style["color"], linestyle=style["linestyle"], label=model)
                    ax.axhspan(level.low, level.high, color=style["color"], alpha=0.12, linewidth=0)
            ax.set(xlabel="weight of the decision token w", ylabel=label)
            if r == 0:
                ax.set_title(name, fontweight="bold")
            ax.grid(True, color="0.92", linewidth=0.6)
    fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper")
    footer(fig, f"{source.intervals}; weights 1, sqrt(L) and L")
    return Drawn(rows, fig)

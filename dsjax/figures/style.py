"""Figures of a study, drawn from its results alone (plain JSON data); the same results give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dsjax.tasks.addition import SPLITS

Results = Mapping[str, Any]

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "dsjax",
    "svg.fonttype": "path",
}
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#8C8C00", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
INTERVALS = "95 % intervals over problems; one seed"
CURVES = "point values without intervals; one seed"
DPI = 150
WIDEST = 22.0  # inches of panels side by side


def draw_figures(results: Results, directory: Path) -> list[Path]:
    """Draw every figure as PNG and SVG.

    Args:
      results: of a study; `lengths`, `config`, `curves`, `evaluation`, `swap` and `accounting` are read. A number that
        is None or not finite is left out, or called not defined. `split_names` has the names of its task's splits,
        where it is not addition; `intervals_are` and `curves_are` say what they show where it is not one seed.
      directory: made if it is not there.

    Returns:
      The files written.
    """
    figures: dict[str, Callable[[Results], Figure]] = {
        "F1_share_against_length": share_against_length,
        "F4_training_curves": training_curves,
        "F5_components": components,
        "F6_cross_swap": cross_swap,
        "F7_log_odds": log_odds,
    }
    return save_figures(figures, results, directory)


def save_figures(figures: Mapping[str, Callable[[Any], Figure]], data: Any, directory: Path) -> list[Path]:
    """Draw each figure from the data and write it as PNG and SVG; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in figures.items():
        settings: dict[Any, Any] = {**mpl.rcParamsDefault, **STYLE}
        settings.pop("backend", None)
        with mpl.rc_context(settings):
            figure = draw(data)
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                path = directory / f"{name}.{suffix}"
                figure.savefig(path, dpi=DPI, metadata=metadata)
                written.append(path)
    return written


def share_against_length(results: Results) -> Figure:
    """F1: decision share of the exact expected gradient against answer length."""
    shares: dict[str, dict[str, dict[int, float | None]]] = {}
    for row in results["lengths"]:
        of = shares.setdefault(row["objective"], {"share": {}, "euclidean_share": {}})
        for key, values in of.items():
            values[row["length"]] = row[key]
    return share_curves(shares)


def share_curves(shares: Mapping[str, Mapping[str, Mapping[int, float | None]]]) -> Figure:
    """Curves of `share` and `euclidean_share` against length, one an objective."""
    figure = new_figure(9.6, 4.3 + 0.12 * max(0, len(shares) - 12), "Decision share of the exact expected gradient")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    lengths = sorted({length for of in shares.values() for length in of["share"]})
    titles = {"share": "energy share", "euclidean_share": "Euclidean share in logit space"}
    for ax, (key, title) in zip(panels, titles.items(), strict=True):
        for i, (objective, of) in enumerate(shares.items()):
            points = [(x, _number(y)) for x, y in sorted(of[key].items())]
            shown = [(x, y) for x, y in points if y > 0]
            label = objective if len(shown) == len(points) else f"{objective} (not where zero or undefined)"
            ax.plot(*_columns(shown), label=label, **line_style(i))
        if lengths:
            ax.plot(lengths, [1 / x for x in lengths], color="0.45", linewidth=0.7, label="1/L", zorder=1)
        ax.set(xscale="log", yscale="log", xlabel="answer length L (tokens)", title=title)
        ax.xaxis.set_major_locator(FixedLocator(lengths[:: max(1, len(lengths) // 6)]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.grid(True, color="0.9", linewidth=0.6)
    panels[0].set_ylabel("decision share (fraction)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", handlelength=3.2)
    footer(figure, "exact expected gradients, no sampling: no seed and no intervals; both axes logarithmic")
    return figure


def training_curves(results: Results) -> Figure:
    """F4: final accuracy, p and AUROC while training, per split, and the decision share of the gradient."""
    arms = list(results["config"]["arms"])
    curves = results["curves"]
    rounds = results["config"]["rounds"]
    present = {row["split"] for arm in arms for row in curves.get(arm, {}).get("evaluation", [])}
    splits = _splits(results, present)
    figure = new_figure(11.0, 2.4 * (len(splits) + 1) + 0.8, "Training curves")
    grid = figure.add_gridspec(len(splits) + 1, 3)
    measures = {
        "accuracy": f"final accuracy at T = {rounds}",
        "p": "p = P(right), one attempt",
        "auroc": "AUROC of STOP",
    }
    for r, split in enumerate(splits):
        for c, (key, label) in enumerate(measures.items()):
            ax = figure.add_subplot(grid[r, c])
            for i, arm in enumerate(arms):
                rows = [row for row in curves.get(arm, {}).get("evaluation", []) if row["split"] == split]
                ax.plot(
                    *_columns([(row["step"], _number(row.get(key))) for row in rows]),
                    markevery=max(1, len(rows) // 10),
                    **line_style(i),
                )
            if key == "auroc":
                ax.axhline(0.5, color="0.6", linewidth=0.7, zorder=1)
            ax.set(ylabel=label, xlabel="update")
            if c == 1:
                ax.set_title(_split_name(results, split), fontweight="bold")
            _time_axis(ax)
    ax = figure.add_subplot(grid[len(splits), :])
    for i, arm in enumerate(arms):
        rows = [row for row in curves.get(arm, {}).get("gradient", []) if row]
        ax.plot(
            *_columns([(row["step"], _number(row.get("share"))) for row in rows]),
            markevery=max(1, len(rows) // 15),
            **line_style(i),
        )
    ax.set_title("decision share of the gradient", fontweight="bold")
    ax.set(xlabel="update", ylabel="decision share (fraction)")
    ax.set_ylim(bottom=0)
    _time_axis(ax)
    handles = [Line2D([], [], label=arm, **line_style(i)) for i, arm in enumerate(arms)]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", title="arm", handlelength=3.2)
    footer(
        figure,
        "share: of one batch's gradient (signal and noise), Euclidean in parameter space; "
        f"grey line: AUROC of a blind decider; {results.get('curves_are', CURVES)}",
    )
    return figure


def components(results: Results) -> Figure:
    """F5: p, a and b of every model with intervals, and the ROC curves of STOP."""
    evaluation = results["evaluation"]
    splits = _splits(results, evaluation)
    models = list(dict.fromkeys(model for split in splits for model in evaluation[split]))
    width = max(4.6, 0.75 * len(models) + 1.2)
    figure = new_figure(width + 5.4, 3.3 * max(len(splits), 1) + 0.6, "The two components after training")
    panels: Any = figure.subplots(max(len(splits), 1), 2, squeeze=False, width_ratios=(width, 3.6))
    labels = {"p": "p = P(right)", "a": "a = P(STOP | right)", "b": "b = P(STOP | wrong)"}
    looks = (("o", "#000000", "#000000"), ("s", "#0072B2", "#0072B2"), ("^", "#D55E00", "white"))
    for (left, right), split in zip(panels, splits, strict=False):
        for j, (key, label) in enumerate(labels.items()):
            marker, colour, face = looks[j]
            left.plot([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, label=label)
            for i, model in enumerate(models):
                cell = evaluation[split].get(model, {}).get(key)
                _dot(left, i + 0.22 * (j - 1), cell, marker=marker, color=colour, markerfacecolor=face)
        for i in range(1, len(models)):
            left.axvline(i - 0.5, color="0.88", linewidth=0.8, zorder=0)
        turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(models) > 4 else {}
        left.set_xticks(range(len(models)), models, **turn)
        left.set(ylabel="probability", xlim=(-0.5, len(models) - 0.5), ylim=(-0.03, 1.03))
        left.set_title(_split_name(results, split), fontweight="bold")
        for i, model in enumerate(models):
            roc = evaluation[split].get(model, {}).get("roc")
            if roc:
                line = {**_model_style(i), "marker": "none"}
                right.plot(roc["wrong_accepted"], roc["right_accepted"], **line, label=model)
        right.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, zorder=1)
        right.set(xlabel="P(accepted | wrong)", ylabel="P(accepted | right)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        right.set_title("ROC of STOP")
        right.set_box_aspect(1)
    dots, lines = (ax.get_legend_handles_labels() for ax in panels[0])
    if dots[0] or lines[0]:
        figure.legend(dots[0] + lines[0], dots[1] + lines[1], loc="outside right center", handlelength=3.2)
    footer(figure, f"bars: {_intervals(results)}; diagonal: a blind decider")
    return figure


def cross_swap(results: Results) -> Figure:
    """F6: final accuracy of every sampler with every decider."""
    swap = results["swap"]
    splits = _splits(results, swap)
    samplers = list(dict.fromkeys(s for split in splits for s in swap[split]))
    deciders = list(dict.fromkeys(d for split in splits for s in swap[split] for d in swap[split][s]))
    values = {
        split: np.array([[_number(_at(swap[split], s, d, "value")) for d in deciders] for s in samplers], dtype=float)
        for split in splits
    }
    finite = [v for table in values.values() for v in table.ravel().tolist() if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    high = high if high > low else low + 1e-3
    across = max(3.0, 0.8 * len(deciders) + 0.4) + 1.1
    down = max(3.0, 0.62 * len(samplers) + 0.4) + 1.2
    rows, columns = max(len(splits), 1), 1
    if across * len(splits) <= WIDEST:
        rows, columns = columns, rows
    figure = new_figure(
        across * columns + 1.2, down * rows + 0.7, "Cross-swap: each sampler (rows) with each decider (columns)"
    )
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colours = mpl.colormaps["cividis"].with_extremes(bad="white")
    image = None
    for ax, split in zip(panels.flat, splits, strict=False):
        table = values[split]
        image = ax.imshow(np.ma.masked_invalid(table), cmap=colours, vmin=low, vmax=high, aspect="auto")
        for r, sampler in enumerate(samplers):
            for c, decider in enumerate(deciders):
                cell = _at(swap[split], sampler, decider)
                if not math.isfinite(table[r, c]):
                    ax.text(c, r, "not\ndefined", ha="center", va="center", fontsize=6.5)
                    continue
                ink = "white" if (table[r, c] - low) / (high - low) < 0.5 else "black"
                ax.text(c, r - 0.13, f"{table[r, c]:.3f}", ha="center", va="center", color=ink, fontsize=8.5)
                if _ok(cell.get("low")) and _ok(cell.get("high")):
                    interval = f"{cell['low']:.3f}–{cell['high']:.3f}"
                    ax.text(c, r + 0.21, interval, ha="center", va="center", color=ink, fontsize=5.8)
        ax.set_xticks(range(len(deciders)), deciders, rotation=35, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(samplers)), samplers)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(_split_name(results, split), fontweight="bold")
    for ax in panels[-1]:
        ax.set_xlabel("decider")
    for ax in panels[:, 0]:
        ax.set_ylabel("sampler")
    if image is not None:
        label = f"final accuracy at T = {results['config']['rounds']}"
        figure.colorbar(image, ax=list(panels.flat), label=label, fraction=0.05, pad=0.02)
    footer(figure, f"small type: {_intervals(results)}; one colour scale for all panels")
    return figure


def log_odds(results: Results) -> Figure:
    """F7: what sampler and decider each bring to the log-odds of final accuracy."""
    accounting = results["accounting"]
    splits = _splits(results, accounting)
    arms = list(dict.fromkeys(arm for split in splits for arm in accounting[split]))
    rows, columns = max(len(splits), 1), max(len(arms), 1)
    figure = new_figure(
        max(6.5, 1.95 * columns + 2.4),
        2.75 * rows + 1.1,
        f"Log-odds of final accuracy at T = {results['config']['rounds']}: from base to arm",
    )
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharey="row")
    for r, split in enumerate(splits):
        for c, arm in enumerate(arms):
            _waterfall(panels[r, c], accounting[split].get(arm), arm)
        panels[r, 0].set_ylabel(f"{_wrapped(results, split)}\nlog-odds (nats)")
        panels[r, 0].margins(y=0.15)
    handles = [
        Patch(facecolor="0.8", edgecolor="black", label="base, arm"),
        Patch(facecolor="#9ecae1", edgecolor="black", hatch="////", label="sampler (Shapley)"),
        Patch(facecolor="#fdbe85", edgecolor="black", hatch="....", label="decider (Shapley)"),
    ]
    figure.legend(handles=handles, loc="outside right upper")
    footer(figure, f"bars: {_intervals(results)}; percentages: the log-odds as probabilities")
    return figure


def _waterfall(ax: Any, entry: Mapping[str, Any] | None, arm: str) -> None:
    """One panel of F7."""
    ax.set_title(arm)
    ax.set_xticks(range(4), ["base", "+sampler", "+decider", "arm"], rotation=40, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, 3.6)
    ax.use_sticky_edges = False
    ax.margins(y=0.15)
    entry = entry or {}
    steps = [_at(entry, "log_odds", part) for part in ("sampler", "decider")]
    numbers = [_number(entry.get("base_log_odds")), *(_number(s.get("value")) for s in steps)]
    end = _number(entry.get("arm_log_odds"))
    if not all(math.isfinite(x) for x in (*numbers, end)):
        ax.text(0.5, 0.5, "not defined", ha="center", va="center", transform=ax.transAxes, color="0.3")
        return
    start, sampler, decider = numbers
    middle = start + sampler
    last = middle + decider
    look: dict[str, Any] = {"width": 0.72, "edgecolor": "black", "linewidth": 0.7, "zorder": 2}
    ax.bar([0, 3], [start, end], color="0.8", **look)
    ax.bar(1, sampler, bottom=start, color="#9ecae1", hatch="////", **look)
    ax.bar(2, decider, bottom=middle, color="#fdbe85", hatch="....", **look)
    for x, level in enumerate((start, middle, last)):
        ax.plot([x + 0.36, x + 0.64], [level, level], color="black", linewidth=0.8, zorder=3)
    for x, origin, step in ((1, start, steps[0]), (2, middle, steps[1])):
        if _ok(step.get("low")) and _ok(step.get("high")):
            ends = [origin + step["low"], origin + step["high"]]
            ax.plot([x, x], ends, color="white", linewidth=3.2, zorder=4, solid_capstyle="butt")
            ax.plot([x, x], ends, color="black", linewidth=1.3, marker="_", markersize=6, zorder=5)
    for x, level in ((0, start), (3, end)):
        up = level >= 0
        accuracy = 1 / (1 + math.exp(-level)) if level > -700 else 0.0
        ax.annotate(
            f"{100 * accuracy:.1f} %",
            (x, level),
            xytext=(0, 3 if up else -3),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=7.5,
            zorder=6,
        )
    ax.axhline(0, color="black", linewidth=0.6, zorder=1)


def _intervals(results: Results) -> str:
    """What the intervals of these results are."""
    return results.get("intervals_are", INTERVALS)


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure that belongs to no window and to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def footer(figure: Figure, text: str) -> None:
    """Small print below the panels; the layout leaves room for it."""
    figure.supxlabel(text, fontsize=7.5, color="0.3", x=0.01, ha="left")


def line_style(i: int) -> dict[str, Any]:
    """Line number i: told apart by marker and dashes where there is no colour."""
    return {
        "color": COLOURS[(i + 1) % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
        "markerfacecolor": "white" if i % 2 else COLOURS[(i + 1) % len(COLOURS)],
    }


def _model_style(i: int) -> dict[str, Any]:
    """Model number i, where base is number 0 and every arm looks as it does in the training curves."""
    return {"color": "black", "linestyle": "-", "linewidth": 2.2} if i == 0 else line_style(i - 1)


def _split_name(results: Results, split: str) -> str:
    """What a split of the results' task is, in words."""
    return results.get("split_names", SPLITS).get(split, split)


def _splits(results: Results, present: Iterable[str]) -> list[str]:
    """Known splits in their usual order, then the others by name."""
    names, known = set(present), results.get("split_names", SPLITS)
    return [s for s in known if s in names] + sorted(names - set(known))


def _wrapped(results: Results, split: str) -> str:
    """A split's label on two lines."""
    return _split_name(results, split).replace(" (", "\n(")


def _ok(value: Any) -> bool:
    """Whether it is a finite number."""
    return value is not None and math.isfinite(value)


def _number(value: Any) -> float:
    """The number, or NaN where there is none."""
    return float(value) if _ok(value) else math.nan


def _at(data: Any, *keys: str) -> Any:
    """The entry below these keys; an empty dict where one of them is missing."""
    for key in keys:
        data = (data or {}).get(key)
    return {} if data is None and keys[-1] != "value" else data


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as x and y."""
    return [x for x, _ in points], [y for _, y in points]


def _dot(ax: Any, x: float, cell: Mapping[str, Any] | None, **look: Any) -> None:
    """A point with its interval; nothing where there is no value."""
    if not cell or not _ok(cell.get("value")):
        return
    if _ok(cell.get("low")) and _ok(cell.get("high")):
        ax.plot([x, x], [cell["low"], cell["high"]], color=look["color"], linewidth=1.2, marker="_", markersize=5)
    ax.plot([x], [cell["value"]], linestyle="none", **look)


def _time_axis(ax: Any) -> None:
    """Whole updates, light grid."""
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.grid(True, color="0.92", linewidth=0.6)

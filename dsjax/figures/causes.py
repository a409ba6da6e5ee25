"""Figures C1 (planted causes against what the accounting finds) and C5 (prefix sums: closed forms against runs)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from dsjax.evaluation import mixture
from dsjax.figures.style import (
    Drawn,
    Row,
    Source,
    arm_handles,
    arm_style,
    estimate,
    figure,
    footer,
    line_style,
    new_figure,
    number,
    numbers,
    picked,
)
from dsjax.statistics import Estimate
from dsjax.training.config import BASE

UNITS = {"three_terms": "nats", "accuracy": "accuracy"}
TITLES = {"three_terms": "log-odds after many rounds", "accuracy": "final accuracy"}
LINES = {"imitation": "continued imitation", "rft_round": "one round of RFT", "reward": "reward"}


@figure("C1", "calibration", of="theory")
def calibration(source: Source) -> Drawn | None:
    """C1: for every planted cause the part that was planted, exact, and what the accounting finds, by part."""
    if "calibration" not in source.theory:
        return None
    found = source.theory["calibration"]
    rows = [
        {"kind": case["kind"], "size": case["size"], "scale": scale, "part": part, "planted": x["planted"]} | numbers(x)
        for case in found["cases"]
        for scale, parts in case["parts"].items()
        for part, x in parts.items()
    ]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    panels = list(dict.fromkeys((row["scale"], row["part"]) for row in rows))
    columns = max(sum(scale == s for s, _ in panels) for scale in UNITS)
    fig = new_figure(11.5, 7.2, "Planted causes, and what the accounting finds")
    grid: Any = fig.subplots(len(UNITS), columns, squeeze=False)
    for r, scale in enumerate(UNITS):
        parts = [part for s, part in panels if s == scale]
        for c, ax in enumerate(grid[r]):
            if c >= len(parts):
                ax.axis("off")
                continue
            some = picked(rows, scale=scale, part=parts[c])
            for i, kind in enumerate(kinds):
                style = {**line_style(i), "linestyle": "none", "linewidth": 0.9, "capsize": 2}
                of = picked(some, kind=kind)
                x, e = [row["planted"] for row in of], [estimate(row) for row in of]
                reach = [[y.value - y.low for y in e], [y.high - y.value for y in e]]
                ax.errorbar(x, [y.value for y in e], yerr=np.maximum(reach, 0), **style)
            ends = [f([row["planted"] for row in some]) for f in (min, max)]
            pad = 0.08 * (ends[1] - ends[0]) or 0.05
            ends = [ends[0] - pad, ends[1] + pad]
            ax.plot(ends, ends, color="0.45", linewidth=0.8, zorder=1)
            n = found["coverage"][scale][parts[c]]
            ax.set_title(f"{parts[c]}: {n['covered']} of {n['of']} inside", fontweight="bold")
            ax.set(xlabel=f"planted ({UNITS[scale]})", ylabel=f"found: {TITLES[scale]}" if c == 0 else "")
            ax.grid(True, color="0.92", linewidth=0.6)
    handles = [Line2D([], [], label=kind, **{**line_style(i), "linestyle": "none"}) for i, kind in enumerate(kinds)]
    grid[-1][-1].legend(handles=handles, loc="center", title="planted cause", fontsize=9)
    footer(
        fig,
        f"each point: {found['problems']} problems, {found['rounds']} answers each; 95 % intervals over problems;"
        " grey: found = planted",
    )
    return Drawn(rows, fig)


@figure("C5", "prefix_sums")
def prefix_sums(source: Source) -> Drawn | None:
    """C5: accuracy along the training, P(STOP) at the chain's first answer, and the parts of reward's gain."""
    if "predicted" not in source.entry:
        return None
    theory, split = source.entry["predicted"], "in"
    of = source.entry["splits"][split]
    rows: list[Row] = []
    for arm in source.entry["models"]:
        for row in source.entry["curves"][arm].get("evaluation", ()):
            if arm != BASE and row["split"] == split:
                names = dict(zip(("value", "low", "high"), row["accuracy"], strict=True))
                rows.append({"panel": "training", "model": arm, "step": row["step"], "measure": "accuracy", **names})
    for model, chains in of["chains"].items():
        measured = {"accuracy": of["measures"][model]["accuracy"], **chains}
        rows += [
            {"panel": "decision", "model": model, "step": None, "measure": k, **numbers(e)} for k, e in measured.items()
        ]
    for arm in source.arms:
        parts = of["accounting"][f"{arm} - {BASE}"]["accuracy"]
        rows += [{"panel": "parts", "model": arm, "step": None, "measure": k, **numbers(e)} for k, e in parts.items()]
    rows += [
        {"panel": "closed form", "model": "", "step": None, "measure": k, "value": v, "low": None, "high": None}
        for k, v in theory.items()
    ]
    fig = new_figure(12.5, 4.4, "Prefix sums: closed forms (grey) against runs")
    panels: Any = fig.subplots(1, 3, gridspec_kw={"width_ratios": (1.25, 1, 1)})
    _training(panels[0], source, rows, theory)
    _decision(panels[1], source, rows, theory)
    _parts(panels[2], source, rows, theory)
    panels[1].legend(handles=arm_handles(source.models), loc="upper right", handlelength=3.2)
    footer(fig, f"{source.intervals}; training: means, and least to greatest")
    return Drawn(rows, fig)


def _training(ax: Any, source: Source, rows: list[Row], theory: dict[str, float]) -> None:
    for name, label in LINES.items():
        ax.axhline(theory[name], color="0.5", linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
        ax.annotate(
            f"{label}: {theory[name]:.3f}",
            (0.99, theory[name]),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            xytext=(0, 3),
            ha="right",
            va="bottom",
            fontsize=7.5,
            color="0.3",
        )
    for arm in source.models:
        some = picked(rows, panel="training", model=arm)
        style = arm_style(arm)
        steps = [row["step"] for row in some]
        low, high = ([number(row[k]) for row in some] for k in ("low", "high"))
        ax.plot(steps, [number(row["value"]) for row in some], markevery=max(1, len(some) // 8), **style)
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
    ax.set(xlabel="update", ylabel="final accuracy", title="along the training", ylim=(None, 1.07))
    ax.grid(True, color="0.92", linewidth=0.6)


def _decision(ax: Any, source: Source, rows: list[Row], theory: dict[str, float]) -> None:
    """P(STOP | first answer = the chain's) of a calibrated mixture is one curve in its accuracy."""
    s = theory["guess"]
    accuracy = np.linspace(s, 1, 101)
    ax.plot(accuracy, mixture.stop_at_prefix(mixture.chain_share(accuracy, s), s), color="0.5", linewidth=1.2, zorder=2)
    for model in source.models:
        x, y = (
            estimate(picked(rows, panel="decision", model=model, measure=k)[0]) for k in ("accuracy", "stop_on_chain")
        )
        if x and y:
            style = {**arm_style(model), "linestyle": "none", "linewidth": 0.9, "capsize": 2}
            style["marker"] = "+" if model == BASE else style["marker"]  # the base has a line alone
            ax.errorbar([x.value], [y.value], xerr=_reach(x), yerr=_reach(y), zorder=3, **style)
    ax.set(xlabel="final accuracy", ylabel="P(STOP | first answer = prefix)", title="what the decider does")
    ax.set(xlim=(s - 0.03, 1.03), ylim=(-0.04, 1.04))
    ax.grid(True, color="0.92", linewidth=0.6)


def _parts(ax: Any, source: Source, rows: list[Row], theory: dict[str, float]) -> None:
    names = ("total", "sampler", "decider")
    known = {**theory, "total": theory["reward"] - theory["imitation"]}
    for x, name in enumerate(names):
        ax.plot([x - 0.42, x + 0.42], [known[name]] * 2, color="0.5", linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
    for i, arm in enumerate(source.arms, 1):
        e = [estimate(picked(rows, panel="parts", model=arm, measure=name)[0]) for name in names]
        place = [x + (i - (len(source.arms) + 1) / 2) * 0.8 / max(1, len(source.arms)) for x in range(len(names))]
        style = {**arm_style(arm), "linestyle": "none", "linewidth": 0.9, "capsize": 2}
        ax.errorbar(place, [y.value for y in e], yerr=np.concatenate([_reach(y) for y in e], axis=1), **style)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(range(len(names)), names)
    ax.set(ylabel="change of accuracy from the base", title="who brings it (grey: reward)")
    ax.grid(True, axis="y", color="0.92", linewidth=0.6)


def _reach(e: Estimate) -> np.ndarray:
    """Lengths [2, 1] of an error bar; nothing where there is no interval."""
    ends = [max(0.0, e.value - e.low), max(0.0, e.high - e.value)]
    return np.array([[x if math.isfinite(x) else 0.0] for x in ends])

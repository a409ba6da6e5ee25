"""Scaling plots of the benchmark, from its stored numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dsjax.figures.style import COLOURS, DASHES, MARKERS, styled, write

UNITS = {
    "batch": "sequences a step",
    "length": "tokens of an answer",
    "rounds": "rounds of an episode",
    "width": "width of the network",
    "devices": "devices",
}
NAMES = {"decode": "decode", "sft": "SFT step", "rl": "RL step"}


def draw_scaling(name: str, rows: list[dict[str, Any]], result: dict[str, Any], directory: Path) -> list[Path]:
    """`scaling_<name>`: seconds a step and fraction of the matrix-product peak along one sweep."""
    directory.mkdir(parents=True, exist_ok=True)
    with styled():
        return write(directory / f"scaling_{name}", _scaling(name, rows, result))


def _scaling(name: str, rows: list[dict[str, Any]], result: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.8, 2.9), layout="constrained")
    time, share = figure.subplots(1, 2)
    values = [row[name] for row in rows]
    for i, (measure, label) in enumerate(NAMES.items()):
        style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i], "label": label}
        time.plot(values, [row[f"{measure}_seconds"] for row in rows], **style)
        share.plot(values, [row[f"{measure}_fraction_of_peak"] for row in rows], **style)
    first = rows[0]
    linear = [first["rl_seconds"] * v / first[name] for v in values]
    if name != "devices":
        time.plot(values, linear, color="0.6", linewidth=0.9, label="proportional")
    time.set_yscale("log")
    for axes in (time, share):
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(v) for v in values])
        axes.minorticks_off()
        axes.set_xlabel(UNITS[name])
    time.set_ylabel("seconds a step")
    share.set_ylabel("part of the matrix-product peak")
    share.set_ylim(0, None)
    time.legend()
    device = result["device"]
    figure.suptitle(f"{result['preset']}, {result['config']['dtype']}, {device['kind']}", fontsize=9.5)
    return figure

"""Figures about theory: F1 (shares against length), F2 (heat map of the atlas) and F3 (the tax of T7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dsjax.atlas.rows import ENTRIES
from dsjax.figures.style import Drawn, Row, Source, figure, footer, line_style, new_figure, number, picked

# More lines than this cannot be told apart without colour; the heat map has them all.
DRAWN = ("REINFORCE", "GRPO", "SFT", "SFT, weight 32", "DPO", "KL loss, k2", "trajectory KL", "reward + traj. KL")


def _rows(objectives: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        {"objective": found["name"], "length": int(length)}
        | {share: found[f"{share}s"][length] for share in ("share", "euclidean_share")}
        for found in objectives
        for length in found["shares"]
    ]


@figure("F1", "share_against_length", of="theory")
def share_against_length(source: Source) -> Drawn | None:
    """F1: well-known objectives and whatever is not in the atlas itself, with the fitted slope of the energy share."""
    if "atlas" not in source.theory:
        return None
    objectives = [o for o in source.theory["atlas"]["objectives"] if o["name"] in DRAWN or o["name"] not in ENTRIES]
    rows = _rows(objectives)
    lengths = sorted({row["length"] for row in rows})
    height = 4.3 + 0.12 * max(0, len(objectives) - 12)
    fig = new_figure(9.6, height, "Decision share of the exact expected gradient")
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    titles = {"share": "energy share", "euclidean_share": "Euclidean share in logit space"}
    for ax, (key, title) in zip(panels, titles.items(), strict=True):
        for i, objective in enumerate(objectives):
            fit = objective["slope"]
            slope = "no slope" if fit["value"] is None else f"slope {fit['value']:+.2f} ± {fit['error']:.2f}"
            label = f"{objective['name']} ({slope})"
            of = sorted(picked(rows, objective=objective["name"]), key=lambda row: row["length"])
            some = [row for row in of if number(row[key]) > 0]
            if len(some) < len(of):
                label += " (not where zero or undefined)"
            ax.plot([row["length"] for row in some], [row[key] for row in some], label=label, **line_style(i))
        ax.plot(lengths, [1 / x for x in lengths], color="0.45", linewidth=0.7, label="1/L", zorder=1)
        ax.set(xscale="log", yscale="log", xlabel="answer length L (tokens)", title=title)
        ax.xaxis.set_major_locator(FixedLocator(lengths[:: -(-len(lengths) // 6)]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.grid(True, color="0.9", linewidth=0.6)
    panels[0].set_ylabel("decision share (fraction)")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", handlelength=3.2)
    footer(fig, "exact expected gradients, no sampling: no seed and no intervals; both axes logarithmic")
    return Drawn(rows, fig)


@figure("F2", "atlas", of="theory")
def heat_map(source: Source) -> Drawn | None:
    """F2: energy share of the decision, objective by length, with the slope at long answers."""
    if "atlas" not in source.theory:
        return None
    objectives = source.theory["atlas"]["objectives"]
    rows = _rows(objectives)
    lengths = sorted({row["length"] for row in rows})
    shares = {(row["objective"], row["length"]): row["share"] or math.nan for row in rows}
    table = np.array([[shares.get((o["name"], n), math.nan) for n in lengths] for o in objectives], dtype=float)
    fig = new_figure(10.0, 0.3 * len(objectives) + 2.2, "Decision share of energy, by objective and answer length")
    ax = fig.subplots()
    colours = mpl.colormaps["cividis"].with_extremes(bad="white")
    low = max(float(np.nanmin(table)), 1e-5) if np.isfinite(table).any() else 1e-3
    norm = LogNorm(low, 1.0)
    image = ax.imshow(np.ma.masked_invalid(table), cmap=colours, norm=norm, aspect="auto")
    for r, objective in enumerate(objectives):
        for c, share in enumerate(table[r]):
            if not math.isfinite(share):
                ax.text(c, r, "-", ha="center", va="center", fontsize=8)
                continue
            ink = "white" if norm(share) < 0.5 else "black"
            text = f"{share:.2f}" if share >= 0.01 else f"{share:.0e}"
            ax.text(c, r, text, ha="center", va="center", color=ink, fontsize=7.5)
        slope = objective["slope"]["tail"]
        ax.text(len(lengths) - 0.35, r, "-" if slope is None else f"{slope:+.2f}", va="center", fontsize=8)
    ax.text(len(lengths) - 0.35, -0.75, "slope at the end", va="bottom", fontsize=7.5)
    ax.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    ax.set_yticks(range(len(objectives)), [objective["name"] for objective in objectives])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="answer length L (tokens)")
    fig.colorbar(image, ax=ax, label="decision share of energy (log scale)", fraction=0.04, pad=0.12)
    footer(fig, "exact expected gradients; slope: of log share against log L between the two longest; -: no gradient")
    return Drawn(rows, fig)


@figure("F3", "kl_tax", of="theory")
def kl_tax(source: Source) -> Drawn | None:
    """F3: the phase diagram of T7, drawn by whoever knows what its numbers are."""
    if "kl_tax" not in source.theory or source.kl_tax is None:
        return None
    fig = new_figure(9.6, 5.2, "T7: where a KL penalty turns the push on STOP at a wrong answer")
    source.kl_tax(source.theory["kl_tax"], fig)
    return Drawn(source.theory["kl_tax"]["lattice"], fig)

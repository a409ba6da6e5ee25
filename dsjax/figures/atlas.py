"""Figures of the atlas, from its stored JSON alone: F1 (shares against length) and F2 (the heat map)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dsjax.atlas.rows import ENTRIES
from dsjax.figures.style import footer, new_figure, save_figures, share_curves

Atlas = Mapping[str, Any]


def _shares(row: Mapping[str, Any], key: str) -> dict[int, float | None]:
    return {int(length): share for length, share in row[key].items()}


# More lines than this cannot be told apart without colour; the heat map has them all.
DRAWN = ("REINFORCE", "GRPO", "SFT", "SFT, weight 32", "DPO", "KL loss, k2", "trajectory KL", "reward + traj. KL")


def curves(atlas: Atlas) -> Figure:
    """F1: well-known objectives and whatever is not in the atlas itself, with the fitted slope of the energy share."""
    rows = [row for row in atlas["objectives"] if row["name"] in DRAWN or row["name"] not in ENTRIES]
    shares = {}
    for row in rows:
        fit = row["slope"]
        slope = "no slope" if fit["value"] is None else f"slope {fit['value']:+.2f} ± {fit['error']:.2f}"
        shares[f"{row['name']} ({slope})"] = {
            "share": _shares(row, "shares"),
            "euclidean_share": _shares(row, "euclidean_shares"),
        }
    return share_curves(shares)


def heat_map(atlas: Atlas) -> Figure:
    """F2: energy share of the decision, objective by length, with the slope at long answers."""
    rows = atlas["objectives"]
    lengths = sorted({int(length) for row in rows for length in row["shares"]})
    table = np.array([[_shares(row, "shares").get(n) or math.nan for n in lengths] for row in rows], dtype=float)
    figure = new_figure(10.0, 0.3 * len(rows) + 2.2, "Decision share of energy, by objective and answer length")
    ax = figure.subplots()
    colours = mpl.colormaps["cividis"].with_extremes(bad="white")
    low = max(float(np.nanmin(table)), 1e-5) if np.isfinite(table).any() else 1e-3
    norm = LogNorm(low, 1.0)
    image = ax.imshow(np.ma.masked_invalid(table), cmap=colours, norm=norm, aspect="auto")
    for r, row in enumerate(rows):
        for c in range(len(lengths)):
            share = table[r, c]
            if not math.isfinite(share):
                ax.text(c, r, "-", ha="center", va="center", fontsize=7)
                continue
            ink = "white" if norm(share) < 0.5 else "black"
            ax.text(
                c,
                r,
                f"{share:.2f}" if share >= 0.01 else f"{share:.0e}",
                ha="center",
                va="center",
                color=ink,
                fontsize=6.5,
            )
        slope = row["slope"]["tail"]
        ax.text(len(lengths) - 0.35, r, "-" if slope is None else f"{slope:+.2f}", va="center", fontsize=7.5)
    ax.text(len(lengths) - 0.35, -0.75, "slope at the end", va="bottom", fontsize=7.5)
    ax.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="answer length L (tokens)")
    figure.colorbar(image, ax=ax, label="decision share of energy (log scale)", fraction=0.04, pad=0.12)
    footer(
        figure, "exact expected gradients; slope: of log share against log L between the two longest; -: no gradient"
    )
    return figure


def draw_atlas(atlas: Atlas, directory: Path) -> list[Path]:
    """Write F1 and F2 as PNG and SVG."""
    return save_figures({"F1_share_against_length": curves, "F2_atlas": heat_map}, atlas, directory)

"""F8: what the gradients of the two components were during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsjax.figures.style import Drawn, Row, Source, arm_handles, arm_style, blocks, figure, footer, new_figure, picked

CURVES = {
    "share": "decision share of the gradient",
    "norm_sample": "norm of the sampler's gradient",
    "norm_decision": "norm of the decider's gradient",
    "cosine": "cosine of the two",
}
BANDED = 4  # arms: the bands of more cover each other (the CSV has them)
SIGNALS = ("signal_sample", "noise_sample", "signal_decision", "noise_decision")


def curve_rows(source: Source, kind: str, keys: Sequence[str]) -> list[Row]:
    """Measures along the training of all models: mean, least and greatest of the trainings."""
    return [
        {
            "arm": arm,
            "split": row.get("split", ""),
            "step": row["step"],
            "measure": key,
            **dict(zip(("mean", "least", "greatest"), row[key] or (None,) * 3, strict=True)),
        }
        for arm in source.entry["models"]
        for row in source.entry["curves"][arm].get(kind, [])
        for key in keys
        if key in row
    ]


@figure("F8", "gradients")
def gradients(source: Source) -> Drawn:
    """F8: decision share, norms and cosine along the training, and signal-to-noise of each component over all of it."""
    rows = curve_rows(source, "gradient", (*CURVES, *SIGNALS))
    groups, height = blocks(source.arms), 0.27 * len(source.arms) + 1.2
    fig = new_figure(13.5, 2.9 * len(groups) + height + 0.8, "Gradients during training")
    parts: Any = fig.subfigures(2, 1, height_ratios=(2.9 * len(groups), height))
    above, below = parts
    panels: Any = above.subplots(len(groups), len(CURVES), squeeze=False, sharex=True, sharey="col")
    banded = len(source.arms) <= BANDED
    for row, arms in zip(panels, groups, strict=True):
        for ax, (key, label) in zip(row, CURVES.items(), strict=True):
            for arm in arms:
                found = [r for r in picked(rows, arm=arm, measure=key) if r["mean"] is not None]
                steps, mean, least, greatest = ([r[k] for r in found] for k in ("step", "mean", "least", "greatest"))
                style = arm_style(arm)
                ax.plot(steps, mean, **style)
                if banded:
                    ax.fill_between(steps, least, greatest, color=style["color"], alpha=0.12, linewidth=0)
            ax.set(xlabel="update" if arms is groups[-1] else "", ylabel=label)
            if key.startswith("norm") and any(len(line.get_xdata()) for line in ax.lines):
                ax.set_yscale("log")  # which an empty axis has not
            ax.grid(True, color="0.92", linewidth=0.6)
        row[-1].legend(handles=arm_handles(arms), loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=3.2)
    bars: Any = below.subplots(1, 2)
    for ax, name, label in zip(bars, ("sample", "decision"), ("sampler", "decider"), strict=True):
        for i, arm in enumerate(source.arms):
            signal, noise = (
                sum(row["mean"] or 0.0 for row in picked(rows, arm=arm, measure=f"{what}_{name}"))
                for what in ("signal", "noise")
            )
            if noise > 0:
                ax.barh(i, signal / noise, color=arm_style(arm)["color"], height=0.7, edgecolor="black")
        ax.set_yticks(range(len(source.arms)), source.arms)
        ax.invert_yaxis()
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(xlabel=f"{label}: signal / noise")
    of = "one seed" if source.seeds == 1 else f"means of {source.seeds} trainings"
    of += ", bands: least to greatest" if banded and source.seeds > 1 else ""
    footer(
        fig,
        f"{of}; Euclidean, in parameter space; signal:"
        " product of two batches' gradients, noise: what is left of the square of one; summed over the training",
    )
    return Drawn(rows, fig)

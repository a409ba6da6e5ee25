"""F8: what the gradients of the two components were during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from dsjax.figures.style import Drawn, Row, Source, figure, footer, line_style, new_figure, picked

CURVES = {
    "share": "decision share of the gradient",
    "norm_sample": "norm of the sampler's gradient",
    "norm_decision": "norm of the decider's gradient",
    "cosine": "cosine of the two",
}
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
    fig = new_figure(11.5, 7.6, "Gradients during training")
    panels: Any = fig.subplots(2, 3)
    for ax, (key, label) in zip(panels.flat, CURVES.items(), strict=False):
        for i, arm in enumerate(source.arms):
            found = [row for row in picked(rows, arm=arm, measure=key) if row["mean"] is not None]
            steps, mean, least, greatest = ([row[k] for row in found] for k in ("step", "mean", "least", "greatest"))
            style = line_style(i)
            ax.plot(steps, mean, **style)
            ax.fill_between(steps, least, greatest, color=style["color"], alpha=0.12, linewidth=0)
        ax.set(xlabel="update", ylabel=label)
        if key.startswith("norm") and any(len(line.get_xdata()) for line in ax.lines):  # an empty axis has no logarithm
            ax.set_yscale("log")
        ax.grid(True, color="0.92", linewidth=0.6)
    for ax, name, label in (
        (panels[1, 1], "sample", "sampler: signal / noise"),
        (panels[1, 2], "decision", "decider: signal / noise"),
    ):
        for i, arm in enumerate(source.arms):
            signal, noise = (
                sum(row["mean"] or 0.0 for row in picked(rows, arm=arm, measure=f"{what}_{name}"))
                for what in ("signal", "noise")
            )
            if noise > 0:
                ax.barh(i, signal / noise, color=line_style(i)["color"], height=0.7, edgecolor="black")
        ax.set_yticks(range(len(source.arms)), source.arms)
        ax.invert_yaxis()
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(xlabel=label)
    handles = [Line2D([], [], label=arm, **line_style(i)) for i, arm in enumerate(source.arms)]
    fig.legend(handles=handles, loc="outside right upper", title="arm", handlelength=3.2)
    of = "one seed" if source.seeds == 1 else f"means of {source.seeds} trainings, bands: least to greatest"
    footer(
        fig,
        f"{of}; Euclidean, in parameter space; signal:"
        " product of two batches' gradients, noise: what is left of the square of one; summed over the training",
    )
    return Drawn(rows, fig)

"""Figures F4 to F9 of the study from its stored results, each as PNG, SVG and, with the numbers in it, as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsjax.config import from_dict
from dsjax.errors import require
from dsjax.figures import style as plotting
from dsjax.figures.atlas import DRAWN, draw_atlas
from dsjax.io import write_atomically
from dsjax.training.arms import ARMS
from dsjax.training.config import BASE, TrainConfig

Report = Mapping[str, Any]
Row = dict[str, Any]

CURVES = ("accuracy", "p", "auroc")
COMPONENTS = ("p", "a", "b", "youden", "auroc", "brier", "accuracy", "accuracy_at_base_rate", "gain", "rounds")
NUMBERS = ("value", "low", "high")
WEIGHTED = ("sft-self", "sft-self-sqrt-l", "sft-self-l")  # F9: decision weights 1, sqrt(L), L
GRADIENTS = {
    "share": "decision share of the gradient",
    "norm_sample": "norm of the sampler's gradient",
    "norm_decision": "norm of the decider's gradient",
    "cosine": "cosine of the two",
}


def draw(
    report: Report,
    directory: Path,
    shown: Sequence[str] = (),
    kl_tax: Callable[[dict[str, Any], Figure], None] | None = None,
) -> list[Path]:
    """Draw F1 to F3 and every figure of every history, as far as the report has them; returns the files.

    Args:
      report: of `dsjax.study.report`.
      directory: where; made if it is not there.
      shown: arms in the figures, in this order; by default those that the study names, or all. The CSV files always
        have all.
      kl_tax: puts the numbers of F3 on an empty figure; without it F3 is left out.

    Raises:
      InputError: for an arm that the report does not have.
    """
    known = {m for entry in report["histories"].values() for m in entry["models"]} - {BASE}
    for arm in shown:
        require(arm in known, "arms", arm, sorted(known))
    shown = shown or report.get("shown", ())
    written = _theory(report["theory"], directory, kl_tax)
    for history, entry in report["histories"].items():
        arms = [m for m in entry["models"] if m != BASE]
        some = [arm for arm in shown if arm in arms] or arms
        results = _results(entry, some)
        figures: dict[str, tuple[Callable[[Any], Figure], list[Row]]] = {
            "F4_training_curves": (plotting.training_curves, _curve_rows(entry, "evaluation", CURVES)),
            "F5_components": (plotting.components, _component_rows(entry)),
            "F6_cross_swap": (plotting.cross_swap, _swap_rows(entry)),
            "F7_log_odds": (plotting.log_odds, _accounting_rows(entry)),
            "F8_gradients": (
                lambda _, entry=entry, some=some: gradients(entry, some),
                _curve_rows(entry, "gradient", (*GRADIENTS, *_SIGNALS)),
            ),
        }
        if len({*WEIGHTED} & {*arms}) > 1:  # one weight is no comparison
            figures["F9_decision_weight"] = (lambda _, entry=entry: decision_weight(entry), _weight_rows(entry))
        named = {f"{name}_{history}": one for name, one in figures.items()}
        written += plotting.save_figures({name: f for name, (f, _) in named.items()}, results, directory)
        for name, (_, rows) in named.items():
            written.append(_save_rows(directory / f"{name}.csv", rows))
    return written


def _theory(
    theory: Mapping[str, Any], directory: Path, kl_tax: Callable[[dict[str, Any], Figure], None] | None
) -> list[Path]:
    written = []
    if "atlas" in theory:
        written += draw_atlas(theory["atlas"], directory)
        rows = [
            {"objective": row["name"], "length": length}
            | {k: row[f"{k}s"][length] for k in ("share", "euclidean_share")}
            for row in theory["atlas"]["objectives"]
            for length in row["shares"]
        ]
        drawn = [row for row in rows if row["objective"] in DRAWN]
        written += [_save_rows(directory / "F1_share_against_length.csv", drawn)]
        written += [_save_rows(directory / "F2_atlas.csv", rows)]
    if "kl_tax" in theory and kl_tax is not None:

        def figure(data: dict[str, Any]) -> Figure:
            empty = plotting.new_figure(9.6, 5.2, "T7: where a KL penalty turns the push on STOP at a wrong answer")
            kl_tax(data, empty)
            return empty

        written += plotting.save_figures({"F3_kl_tax": figure}, theory["kl_tax"], directory)
        written += [_save_rows(directory / "F3_kl_tax.csv", theory["kl_tax"]["lattice"])]
    return written


_SIGNALS = ("signal_sample", "noise_sample", "signal_decision", "noise_decision")


def _results(entry: Report, arms: Sequence[str]) -> dict[str, Any]:
    """One history in the form that the figures of the main job take."""
    models = [BASE, *arms]
    splits = entry["splits"]
    curves = {
        arm: {
            kind: [
                {k: v[0] if isinstance(v, list) else v for k, v in row.items()} for row in entry["curves"][arm][kind]
            ]
            for kind in ("evaluation", "gradient")
        }
        for arm in arms
    }
    seeds = len(entry["seeds"])
    accounting = {}
    for split, found in splits.items():
        odds = {m: found["measures"][m]["log_odds"]["value"] for m in models}
        accounting[split] = {
            arm: {
                "base_log_odds": odds[BASE],
                "arm_log_odds": odds[arm],
                "log_odds": found["accounting"][f"{arm} - {BASE}"]["log_odds"],
            }
            for arm in arms
        }
    return {
        "config": {"arms": list(arms), "rounds": entry["config"]["rounds"]},
        "curves": curves,
        "evaluation": {
            split: {m: {**found["measures"][m], "roc": found["roc"][m]} for m in models}
            for split, found in splits.items()
        },
        "swap": {
            split: {s: {d: found["swap"][s][d] for d in models} for s in models} for split, found in splits.items()
        },
        "accounting": accounting,
        "split_names": entry["split_names"],
        "intervals_are": f"95 % intervals over {seeds} trainings and their problems",
        "curves_are": f"means of {seeds} trainings, without intervals",
    }


def gradients(entry: Report, arms: Sequence[str]) -> Figure:
    """F8: decision share, norms and cosine along the training, and signal-to-noise of each component over all of it."""
    figure = plotting.new_figure(11.5, 7.6, "Gradients during training")
    panels: Any = figure.subplots(2, 3)
    for ax, (key, label) in zip(panels.flat, GRADIENTS.items(), strict=False):
        for i, arm in enumerate(arms):
            rows = [row for row in entry["curves"][arm]["gradient"] if row.get(key) is not None]
            style = plotting.line_style(i)
            ax.plot([row["step"] for row in rows], [row[key][0] for row in rows], **style)
            low, high = ([row[key][j] for row in rows] for j in (1, 2))
            ax.fill_between([row["step"] for row in rows], low, high, color=style["color"], alpha=0.12, linewidth=0)
        ax.set(xlabel="update", ylabel=label)
        if key.startswith("norm"):
            ax.set_yscale("log")
        ax.grid(True, color="0.92", linewidth=0.6)
    for ax, name, label in (
        (panels[1, 1], "sample", "sampler: signal / noise"),
        (panels[1, 2], "decision", "decider: signal / noise"),
    ):
        for i, arm in enumerate(arms):
            rows = entry["curves"][arm]["gradient"]
            signal, noise = (
                sum(row[f"{what}_{name}"][0] for row in rows if row.get(f"{what}_{name}"))
                for what in ("signal", "noise")
            )
            if noise > 0:
                ax.barh(i, signal / noise, color=plotting.line_style(i)["color"], height=0.7, edgecolor="black")
        ax.set_yticks(range(len(arms)), arms)
        ax.invert_yaxis()
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(xlabel=label)
    handles = [Line2D([], [], label=arm, **plotting.line_style(i)) for i, arm in enumerate(arms)]
    figure.legend(handles=handles, loc="outside right upper", title="arm", handlelength=3.2)
    plotting.footer(
        figure,
        f"means of {len(entry['seeds'])} trainings, bands: least to greatest; Euclidean, in parameter space; signal:"
        " product of two batches' gradients, noise: what is left of the square of one; summed over the training",
    )
    return figure


def decision_weight(entry: Report) -> Figure:
    """F9: quality of the decider against the weight of the decision token in SFT, with reward training as a level."""
    splits = list(entry["splits"])
    keys = {"auroc": "AUROC of STOP", "b": "b = P(STOP | wrong)", "accuracy": "final accuracy"}
    figure = plotting.new_figure(3.6 * len(splits) + 1.6, 7.4, "Does a heavier decision token teach SFT to decide?")
    panels: Any = figure.subplots(len(keys), len(splits), squeeze=False)
    levels = [m for m in (BASE, "rloo") if m in entry["models"]]
    for r, (key, label) in enumerate(keys.items()):
        for c, split in enumerate(splits):
            ax = panels[r, c]
            rows = [row for row in _weight_rows(entry) if row["split"] == split and row["measure"] == key]
            weighted = [row for row in rows if row["weight"] is not None and _finite(row)]
            ax.errorbar(
                [row["weight"] for row in weighted],
                [row["value"] for row in weighted],
                yerr=[[row[a] - row[b] for row in weighted] for a, b in (("value", "low"), ("high", "value"))],
                color="black",
                marker="o",
                capsize=3,
                label="SFT on the base's labelled answers",
            )
            for i, model in enumerate(levels):
                level = next(row for row in rows if row["model"] == model)
                if _finite(level):
                    style = plotting.line_style(i)
                    ax.axhline(level["value"], color=style["color"], linestyle=style["linestyle"], label=model)
                    ax.axhspan(level["low"], level["high"], color=style["color"], alpha=0.12, linewidth=0)
            ax.set(xlabel="weight of the decision token w", ylabel=label)
            if r == 0:
                ax.set_title(entry["split_names"].get(split, split), fontweight="bold")
            ax.grid(True, color="0.92", linewidth=0.6)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    plotting.footer(
        figure, f"95 % intervals over {len(entry['seeds'])} trainings and their problems; weights 1, sqrt(L) and L"
    )
    return figure


def _finite(row: Mapping[str, Any]) -> bool:
    return all(row[name] is not None and math.isfinite(row[name]) for name in NUMBERS)


def _weight_rows(entry: Report) -> list[Row]:
    length = from_dict(TrainConfig, entry["config"]).task.length
    models = [m for m in (*WEIGHTED, BASE, "rloo") if m in entry["models"]]
    return [
        {
            "split": split,
            "measure": key,
            "model": m,
            "weight": length ** ARMS[m].length_power if m in WEIGHTED else None,
            **{n: found["measures"][m][key][n] for n in NUMBERS},
        }
        for split, found in entry["splits"].items()
        for key in ("auroc", "b", "accuracy")
        for m in models
    ]


def _curve_rows(entry: Report, kind: str, keys: Sequence[str]) -> list[Row]:
    return [
        {
            "arm": arm,
            "split": row.get("split", ""),
            "step": row["step"],
            "measure": key,
            **dict(zip(("mean", "least", "greatest"), row[key] or (None,) * 3, strict=True)),
        }
        for arm in entry["models"]
        for row in entry["curves"][arm].get(kind, [])
        for key in keys
        if key in row
    ]


def _component_rows(entry: Report) -> list[Row]:
    return [
        {"split": split, "model": m, "measure": key, **{n: found["measures"][m][key][n] for n in NUMBERS}}
        for split, found in entry["splits"].items()
        for m in entry["models"]
        for key in COMPONENTS
    ]


def _swap_rows(entry: Report) -> list[Row]:
    return [
        {"split": split, "sampler": s, "decider": d, **cell}
        for split, found in entry["splits"].items()
        for s, row in found["swap"].items()
        for d, cell in row.items()
    ]


def _accounting_rows(entry: Report) -> list[Row]:
    return [
        {
            "split": split,
            "difference": pair,
            "scale": scale,
            "part": part,
            **{n: found[scale][part][n] for n in NUMBERS},
        }
        for split, of in entry["splits"].items()
        for pair, found in of["accounting"].items()
        for scale in found
        for part in found[scale]
    ]


def _save_rows(path: Path, rows: Sequence[Row]) -> Path:
    buffer = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
    return path

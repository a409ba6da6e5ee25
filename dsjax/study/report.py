"""Every number behind every figure and sentence of the study, from the files that its jobs left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.config import from_dict
from dsjax.errors import InputError, require
from dsjax.evaluation.deciders import reliability
from dsjax.io import inside, read_json
from dsjax.statistics import ANY, DIFFERENCE, PROBABILITY, Resampled, roc_curve
from dsjax.study import cells, chains
from dsjax.study.frontier import Curves, at_equal, curves_of, where_defined
from dsjax.study.hypotheses import EXPECTED, decide, tested
from dsjax.study.jobs import Definition
from dsjax.study.measures import TERMS, Evaluated, Measures
from dsjax.study.predict import tables as predicted_tables
from dsjax.study.settings import Cell
from dsjax.study.tables import Table, rounded, tables
from dsjax.study.trainings import CHOICE, PREDICTIONS, RUN, arm_job, predicted_hash, rows_of
from dsjax.training.arms import arm_of
from dsjax.training.config import BASE, TrainConfig

RESAMPLES = 1000
MEASURES = ("p", "a", "b", "youden", "auroc", "auroc_on_base", "brier", "accuracy", "accuracy_at_base_rate")
MEASURES += ("gain", "rounds")
RULES = ("majority", "best", "random", "oracle")
DECIDING = ("regret", "headroom")  # what deciding better could earn
PARTS = ("sampler", "decider", "total")
SCALES = {"log_odds": PARTS, "accuracy": PARTS, "three_terms": (*TERMS, "total")}
GRADIENTS = ("share", "signal_to_noise_sample", "signal_to_noise_decision", "signal_to_noise_difference")
CURVES = ("evaluation", "gradient")  # rows of each chunk, which no figure draws, stay with their training
TRAINING = "training"  # the "split" of a hypothesis about gradients along the training

Rows = list[dict[str, Any]]
Find = Callable[[Mapping[str, Any]], Resampled]


def report(merged: Mapping[str, Any], directory: Path, definition: Definition) -> dict[str, Any]:
    """The numbers of a study that is done, or of those histories of it whose evaluations all are.

    Args:
      merged: of `dsjax.study.jobs.merge`.
      directory: of the study.
      definition: with the hypotheses and the comparisons that were written down before the runs.
    """
    done = merged["jobs"]
    known = merged.get("preset") in definition.presets
    settings = definition.settings_of(merged["preset"]) if known else definition.settings
    asked = Asked.of(settings, _predictions(done, directory))
    evaluations: dict[str, list[str]] = {}
    for name in [*done, *merged["missing"]]:
        if name.endswith("/evaluation"):
            evaluations.setdefault(name.split("/")[0], []).append(name.rsplit("/", 1)[0])
    out: dict[str, Any] = {
        "shown": list(settings.get("shown", ())),
        "sweep": done[CHOICE]["result"] if CHOICE in done else None,
        "theory": {n.split("/")[1]: done[n]["result"] for n in done if n.startswith("theory/")},
        "histories": {},
        **({"predictions": asked.predictions} if asked.predictions else {}),
    }
    find: dict[tuple[str, str], Find] = {}
    for history, parents in evaluations.items():
        if all(f"{parent}/evaluation" in done for parent in parents):
            parents.sort(key=_seed)
            out["histories"][history] = _of_history(history, parents, done, directory / "jobs", asked, find)
    models = {history: set(entry["models"]) for history, entry in out["histories"].items()}
    out["hypotheses"] = judged(definition.hypotheses, find, models, settings.get("variants", ()))
    out = rounded(out)
    return {**out, "tables": [*tables(out), *_more_tables(out)]}


@dataclass(frozen=True)
class Asked:
    """What a report is asked for beyond its models: pairs to compare, cells, what was known before the run."""

    pairs: Sequence[tuple[str, str]]
    cells: Sequence[Cell] = ()
    power: Mapping[str, Any] = field(default_factory=dict)
    predictions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], predictions: Mapping[str, Any]) -> Asked:
        """From the settings of a preset."""
        cells = [from_dict(Cell, cell) for cell in settings.get("cells", ())]
        pairs = [(arm, against) for arm, against in settings.get("comparisons", [])]
        pairs += [pair for cell in cells if (pair := (cell.arm, cell.against)) not in pairs]
        return cls(pairs, cells, settings.get("power", {}), predictions)


def _predictions(done: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The predictions, with their hash and of how many of the arms that are done they are older; {} without any."""
    file = directory / PREDICTIONS
    if not file.exists():
        return {}
    own = predicted_hash(file)
    arms = [job["result"].get("predictions") for name, job in done.items() if "/arms/" in name]
    return {**read_json(file, "predictions"), "sha256": own, "older_than": arms.count(own), "arms": len(arms)}


def _more_tables(found: Mapping[str, Any]) -> list[Table]:
    """Of predictions and cells, where there are any."""
    out = []
    if "predictions" in found:
        data = found["predictions"]
        age = f"written before {data['older_than']} of {data['arms']} arms began"
        out += [{**table, "title": f"{table['title']}; {age}"} for table in predicted_tables(data)]
    for history, entry in found["histories"].items():
        out += cells.tables(history, entry.get("cells", ()))
    return out


def _seed(parent: str) -> int:
    return int(parent.rsplit("-", 1)[1])


def _of_history(
    history: str,
    parents: Sequence[str],
    done: Mapping[str, Any],
    folder: Path,
    asked: Asked,
    find: dict[tuple[str, str], Find],
) -> dict[str, Any]:
    """All numbers of one history; `find` gets what hypotheses about it are looked up with."""
    first = done[f"{parents[0]}/evaluation"]["result"]
    models, early = first["models"], first.get("early", {})
    jobs = {m: [f"{p}/{BASE}" if m == BASE else arm_job(p, early.get(m, m)) for p in parents] for m in models}
    rows = {m: [rows_of(folder / name / RUN) for name in jobs[m]] for m in models}
    gradients = partial(_of_gradients, {m: [_gradients(r) for r in rows[m]] for m in models})
    find[history, TRAINING] = gradients
    task = from_dict(TrainConfig, first["config"]).task_of
    frontier = {m: curves_of(rows[m]) for m in models if m not in (BASE, *early)}
    splits, measured = {}, {}
    for split in first["splits"]:
        seeds = [Evaluated.read(inside(folder / p / "evaluation", f"{split}.npz"), models) for p in parents]
        measured[split] = measures = Measures(seeds, history, RESAMPLES)
        find[history, split] = partial(_named, measures, frontier, split)
        splits[split] = _of_split(measures, models, asked.pairs)
        if task.has_steps:
            splits[split]["chains"] = chains.found_in(task, split, seeds, RESAMPLES)
    predicted = asked.predictions.get("histories", {}).get(history, {}).get("splits", {})
    found = cells.cells_of(measured, frontier, asked.cells, predicted, asked.power)
    return {
        **({"predicted": chains.predicted(first["config"]["chain_share"], task)} if task.has_steps else {}),
        "config": first["config"],
        "length": task.length,
        "split_names": dict(task.split_names),
        "seeds": [_seed(p) for p in parents],
        "models": models,
        "trainings": {m: [_training(done[name]["result"]) for name in jobs[m]] for m in models},
        "curves": {m: _curves(rows[m]) for m in models},
        "gradients": {
            m: {k: gradients({"measure": k, "arm": m}).estimate() for k in GRADIENTS} for m in models if m != BASE
        },
        "frontier": frontier,
        "splits": splits,
        **({"cells": found} if found else {}),
    }


def _named(measures: Measures, frontier: Mapping[str, Curves], split: str, data: Mapping[str, Any]) -> Resampled:
    """`Measures.named`, or `accuracy_at_equal`: that of `frontier.at_equal`, of the seeds that have it."""
    if data["measure"] != "accuracy_at_equal":
        return measures.named(data)
    gaps, _ = at_equal(frontier[data["arm"]], frontier[data["against"]], split)
    return where_defined(gaps, DIFFERENCE, RESAMPLES)


def _gradients(rows: Rows) -> dict[str, float]:
    """Means over the training: the decisions' `share` of the gradient, and its signal-to-noise by component.

    Signal and noise are summed over the measurements before they are divided: one measurement's signal is an unbiased
    estimate that may be negative.
    """
    found = [row for row in rows if row["kind"] == "gradient"]
    shares = [row["share"] for row in found if row["share"] is not None]
    out = {"share": float(np.mean(shares)) if shares else float("nan")}
    for name in ("sample", "decision"):
        signal, noise = (sum(row[f"{what}_{name}"] or 0.0 for row in found) for what in ("signal", "noise"))
        out[f"signal_to_noise_{name}"] = signal / noise if noise > 0 else float("nan")
    out["signal_to_noise_difference"] = out["signal_to_noise_decision"] - out["signal_to_noise_sample"]
    return out


def _of_gradients(found: Mapping[str, Sequence[Mapping[str, float]]], data: Mapping[str, Any]) -> Resampled:
    """A measure of the gradient of one arm, or of that of one arm less that of another; no problems to resample."""

    def of(arm: str) -> Resampled:
        within = PROBABILITY if data["measure"] == "share" else ANY
        return Resampled.of_seeds([means[data["measure"]] for means in found[arm]], within, RESAMPLES)

    return of(data["arm"]) - of(data["against"]) if "against" in data else of(data["arm"])


def _training(result: Mapping[str, Any]) -> dict[str, Any]:
    config = result["config"]
    fields = {name: config[name] for name in ("learning_rate", "prompts", "group", "updates")}
    return {**fields, "tokens_trained": result["tokens_trained"], "tokens_sampled": result["tokens_sampled"]}


def _of_split(measures: Measures, models: Sequence[str], pairs: Iterable[Sequence[str]]) -> dict[str, Any]:
    """All numbers of one history and split."""
    compared = [*((m, BASE) for m in models if m != BASE), *(pair for pair in pairs if {*pair} <= {*models})]
    found: dict[str, Any] = {
        "measures": {
            m: {k: measures.of_model(k, m).estimate() for k in (*MEASURES, *DECIDING, "log_odds")} for m in models
        },
        "roc": {m: roc_curve(*measures.pooled(m)) for m in models},
        "reliability": {m: reliability(*measures.pooled(m)) for m in models},
        "swap": {s: {d: replace(measures.swapped(s, d).estimate(), seeds=()) for d in models} for s in models},
        "accounting": {
            f"{arm} - {against}": {
                scale: {part: measures.part(scale, part, arm, against).estimate() for part in parts}
                for scale, parts in SCALES.items()
            }
            for arm, against in compared
        },
        "differences": {
            f"{arm} - {against}": {
                k: (measures.of_model(k, arm) - measures.of_model(k, against)).estimate() for k in MEASURES
            }
            for arm, against in compared
        },
    }
    if measures.history == "none":
        found["rules"] = {m: measures.curves(m) for m in models}
        found["against_rules"] = {m: {r: measures.against_rule(r, m).estimate() for r in RULES} for m in models}
    return found


def _curves(seeds: Sequence[Rows]) -> dict[str, Rows]:
    """Rows of evaluations and gradients along the training; each number as [mean, least, greatest] of the seeds."""
    grouped: dict[tuple[str, str, int], Rows] = {}
    for row in chain.from_iterable(seeds):
        if row["kind"] in CURVES:
            grouped.setdefault((row["kind"], row.get("split", ""), row["step"]), []).append(row)
    out: dict[str, Rows] = {}
    for (kind, split, step), found in grouped.items():
        values: dict[str, Any] = {"step": step, **({"split": split} if split else {})}
        for name in found[0]:
            if name not in ("kind", "split", "step"):
                numbers = [row[name] for row in found if row[name] is not None]
                values[name] = [float(np.mean(numbers)), min(numbers), max(numbers)] if numbers else None
        out.setdefault(kind, []).append(values)
    return out


def judged(
    hypotheses: Iterable[Any],
    find: Mapping[tuple[str, str], Find],
    models: Mapping[str, Collection[str]],
    variants: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Each predeclared hypothesis with its estimate, its p-value of Student's t test over seeds, and Holm's.

    What p and verdict mean: `hypotheses.tested` and `hypotheses.decide`.

    Args:
      hypotheses: as the study has them.
      find: by history and split, a function from a hypothesis to what it is about.
      models: by history; hypotheses about other ones are left out.
      variants: names of arms of this study alone.

    Raises:
      InputError: for a hypothesis that cannot be read.
    """
    rows = []
    for data in hypotheses:
        require(isinstance(data, Mapping), "hypotheses", data, "objects with named fields")
        for name in ("id", "text", "history", "split", "measure", "arm", "expect"):
            require(name in data, f"hypothesis {data.get('id', '')}", sorted(data), f"the field {name}")
        expect = data["expect"]
        require(expect in EXPECTED, f"expect of {data['id']}", expect, EXPECTED)
        names = {data[name] for name in ("arm", "against") if name in data}
        for name in names - {BASE, *variants}:
            arm_of(name)
        key = data["history"], data["split"]
        if key not in find or not names <= set(models[data["history"]]):
            continue  # not in this preset
        try:
            found = find[key](data)
        except (KeyError, AttributeError) as error:
            raise InputError(f"hypothesis {data['id']}", str(error), "a measure of the study") from error
        rows.append({**data, "estimate": found.estimate(), "p": tested(data, found.values)})
    return decide(rows)

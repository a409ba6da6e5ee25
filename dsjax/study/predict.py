"""What the bases alone say about a study, before its arms: regret, headroom, what a decider keeps out of distribution.

The file `predictions.json` of the study's directory. An arm that begins notes the hash of the file that is there
(`dsjax.study.trainings`), so that the report can say of how many arms the predictions are older, without any clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dsjax.config import from_dict
from dsjax.errors import require
from dsjax.evaluation import accounting, regret, transfer
from dsjax.evaluation.samples import draw_samples, evaluation_sets
from dsjax.io import write_json
from dsjax.statistics import ANY, PROBABILITY, Bootstrap, Estimate, Statistic, difference, mean
from dsjax.study.jobs import DONE, RUNNING, Done, Study
from dsjax.study.tables import Table, rounded
from dsjax.study.trainings import PREDICTIONS, params_of
from dsjax.training.config import BASE, TrainConfig

FORMAT = 1
RESAMPLES = 1000
WITHIN = {"fall": ANY}
WORDS = {
    "accuracy": "accuracy of the base",
    "regret": "regret of imitation (T16)",
    "headroom": "headroom of judgement",
    "room": "room",
    "e_r": "e_r",
    "e_w": "e_w",
    "fall": "fall of logit p",
    "bound": "accuracy kept at least (T22)",
}

Notice = Callable[[str, str, float], None]
Pair = tuple[np.ndarray, np.ndarray]  # P(STOP) f[N, T], verdicts bool[N, T]


def statistics_of(samples: Mapping[str, Pair], split: str, history: str) -> dict[str, Statistic]:
    """What is predicted of one base on one split, from its samples in all; the first split is in distribution."""
    stop, right = samples[split]
    accuracy = accounting.measures(right, stop)["accuracy"]
    found = {
        "accuracy": accuracy,
        "regret": regret.of_samples(stop, right),
        "headroom": difference(mean(right.any(axis=1).astype(float)), accuracy),
        "room": difference(mean(np.ones(len(right))), accuracy),
    }
    inside = next(iter(samples))
    return found if split == inside else {**found, **transfer.of_samples(samples[inside], samples[split], history)}


def predict(study: Study, notice: Notice = lambda name, state, fraction: None) -> dict[str, Any]:
    """Train the bases that are left, predict from all of them, write `predictions.json`; returns what it holds.

    Raises:
      InputError: for a study without bases; if one of them fails; see also `Study.held`.
    """
    evaluations = {n.rsplit("/", 1)[0]: job for n, job in study.jobs.items() if n.endswith("/evaluation")}
    require(bool(evaluations), "path", str(study.path), "a study of trainings, with bases")
    with study.held():
        samples: dict[str, list[dict[str, Pair]]] = {}
        prints, seeds, seen = {}, {}, [n for n in study.jobs if "/arms/" in n and study.done(n)]
        for folder, job in evaluations.items():
            name, history = f"{folder}/{BASE}", folder.split("/")[0]
            if not study.done(name):
                state = study.do(name, lambda fraction, name=name: notice(name, RUNNING, fraction))
                require(state == DONE, "base", name, "one that trains (`dsjax study status` says why it does not)")
                notice(name, DONE, 1.0)
            need = Done(study.record(name)["result"], study.folder(name))
            found, prints[name] = _samples(need, job.options["problems"])
            samples.setdefault(history, []).append(found)
            seeds.setdefault(history, []).append(int(folder.rsplit("-", 1)[1]))
        histories = {h: {"seeds": seeds[h], "splits": _of_history(of, h)} for h, of in samples.items()}
        data = {"format": FORMAT, "study": study.name, "preset": study.preset, "bases": prints, "seen": seen}
        data = rounded({**data, "histories": histories})
        write_json(study.path / PREDICTIONS, data)
    return data


def _samples(need: Done, problems: int) -> tuple[dict[str, Pair], str]:
    """(a base's samples by split, drawn for this alone, and a fingerprint of its parameters)."""
    config = from_dict(TrainConfig, {**need.result["config"], "init_from": None})
    params, task = params_of(config, need), config.task_of
    out: dict[str, Pair] = {}
    for split, some in evaluation_sets(task, task.splits, problems).items():
        drawn, log_stop = draw_samples(config.policy, params, task, some, config.key("predictions"), config.rounds)
        out[split] = accounting.probability(log_stop), np.asarray(drawn.right)
    leaves = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(params))
    return out, hashlib.sha256(leaves).hexdigest()


def _of_history(seeds: list[dict[str, Pair]], history: str) -> dict[str, dict[str, Estimate]]:
    out = {}
    for split in seeds[0]:
        found = [statistics_of(samples, split, history) for samples in seeds]
        bootstrap = Bootstrap(len(seeds[0][split][0]), RESAMPLES)
        out[split] = {
            name: bootstrap.of(*(f[name] for f in found), within=WITHIN.get(name, PROBABILITY)).estimate()
            for name in found[0]
        }
    return out


def tables(data: Mapping[str, Any]) -> list[Table]:
    """The predictions for people."""
    out = []
    for history, entry in data["histories"].items():
        rows = [
            [split, *(f"{Estimate.from_json(found.get(name)):.3f}" for name in WORDS)]
            for split, found in entry["splits"].items()
        ]
        title = f"history {history}: predicted from {len(entry['seeds'])} bases alone"
        out.append({"title": title, "columns": ["split", *WORDS.values()], "rows": rows})
    return out

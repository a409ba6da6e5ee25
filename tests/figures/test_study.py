"""Figures of a study from results whose numbers are known."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from dsjax.figures.study import draw
from dsjax.study.measures import Evaluated, Measures
from dsjax.study.report import _of_split
from dsjax.tasks import TASKS

N, K, T = 60, 5, 3


def training(models: tuple[str, ...], seed: int) -> Evaluated:
    """Samplers of rising accuracy; deciders of rising skill."""
    rng = np.random.default_rng(seed)
    right = np.stack([rng.random((N, K)) < 0.4 + 0.1 * i for i in range(len(models))])
    log_stop = np.log(
        np.stack([[np.where(r, 0.6 + 0.1 * d, 0.5 - 0.1 * d) for d in range(len(models))] for r in right])
    )
    own = np.stack([log_stop[i, i] for i in range(len(models))])
    return Evaluated(models, right, right[..., None].astype(np.int8), own, log_stop[..., :T])


def curves(scale: float):
    gradient = {"share": 0.2 * scale, "norm_sample": 1.0, "norm_decision": 0.5, "cosine": None}
    gradient |= {"signal_sample": 1.0, "noise_sample": 4.0, "signal_decision": scale, "noise_decision": 2.0}
    measured = {"p": 0.5, "a": 0.5, "b": 0.4, "auroc": None, "accuracy": 0.5 + 0.1 * scale}
    return {
        "gradient": [{"step": step, **{k: v and [v, v, v] for k, v in gradient.items()}} for step in (0, 10)],
        "evaluation": [
            {"step": step, "split": "in", **{k: v and [v, v, v] for k, v in measured.items()}} for step in (0, 10)
        ],
    }


def results(arms=("sft-self", "rloo"), seeds=(0, 1), **config):
    """A report with one history and one split, as it is stored."""
    models = ("base", *arms)
    found = _of_split(Measures([training(models, seed) for seed in seeds], "none", 20), models, [])
    entry = {
        "config": {"rounds": T, "digits": 3, "width": 4, **config},
        "split_names": {"in": "in distribution (easy)"},
        "seeds": list(seeds),
        "models": list(models),
        "curves": {m: curves(1.0 + i) for i, m in enumerate(models)},
        "splits": {"in": found},
    }
    return json.loads(json.dumps({"theory": {}, "histories": {"none": entry}}, allow_nan=False))


@pytest.mark.parametrize("operation", ("addition", "multiplication"))
@pytest.mark.parametrize("width", [0, 4])
def test_weights_of_the_decision_are_those_that_the_arms_trained_with(operation, width, tmp_path):
    """The arm has weight L for answers of L tokens; a sum of 3 digits has 4 of them, a product 6."""
    draw(results(("sft-self", "sft-self-l"), operation=operation, width=width), tmp_path)
    with (tmp_path / "F9_decision_weight_none.csv").open() as file:
        weights = {row["model"]: row["weight"] for row in csv.DictReader(file)}
    length = TASKS[operation](3, width).length
    assert length == {("addition", 0): 4, ("addition", 4): 5, ("multiplication", 0): 6}.get((operation, width), 8)
    assert weights == {"sft-self": "1.0", "sft-self-l": str(float(length)), "base": ""}


@pytest.mark.parametrize("arms", [("rft", "rloo"), ("sft-self", "rloo")])
def test_a_figure_with_nothing_to_show_is_left_out(arms, tmp_path):
    """Without arms of different weights there is nothing to compare."""
    files = draw(results(arms), tmp_path)
    assert {path.name[:2] for path in files} == {"F4", "F5", "F6", "F7", "F8"}
    assert not [*tmp_path.glob("F9*")]

"""Figures of a study from results whose numbers are known."""

from __future__ import annotations

import csv
import json
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from dsjax.config import from_dict
from dsjax.errors import InputError
from dsjax.figures import draw
from dsjax.figures.style import FIGURES
from dsjax.study.measures import Evaluated, Measures
from dsjax.study.report import _of_split, rounded
from dsjax.tasks import TASKS
from dsjax.training.config import TrainConfig

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


def results(arms=("sft-self", "rloo"), seeds=(0, 1), theory=None, **config):
    """A report with one history and one split, as it is stored."""
    models = ("base", *arms)
    measures = Measures([training(models, seed) for seed in seeds], "none", 20)
    found: Any = rounded(_of_split(measures, models, []))
    config = {"rounds": T, "digits": 3, "width": 4, **config}
    entry = {
        "config": config,
        "length": from_dict(TrainConfig, config).task_of.length,
        "split_names": {"in": "in distribution (easy)"},
        "seeds": list(seeds),
        "models": list(models),
        "curves": {m: curves(1.0 + i) for i, m in enumerate(models)},
        "splits": {"in": found},
    }
    return json.loads(json.dumps({"theory": theory or {}, "histories": {"none": entry}}, allow_nan=False))


def atlas():
    """Two objectives; one of them has no gradient where answers are longest."""
    shares = {"REINFORCE": {"1": 0.5, "8": 0.2}, "mine": {"1": 0.4, "8": None}}
    slopes = {"REINFORCE": {"value": -1.0, "error": 0.1, "tail": -0.9}, "mine": {"value": None, "tail": None}}
    return {
        "objectives": [{"name": n, "shares": s, "euclidean_shares": s, "slope": slopes[n]} for n, s in shares.items()]
    }


@pytest.fixture(scope="module")
def whole():
    """A report that every figure has something to show of."""
    theory = {"atlas": atlas(), "kl_tax": {"lattice": [{"beta": 0.1, "tax": 2.0}]}}
    return results(("sft-self", "sft-self-l", "rloo"), theory=theory)


def tax(data, figure):
    figure.subplots().plot([row["beta"] for row in data["lattice"]], [row["tax"] for row in data["lattice"]])


@pytest.fixture(scope="module")
def drawn(whole, tmp_path_factory):
    return draw(whole, tmp_path_factory.mktemp("figures") / "new", kl_tax=tax)


def test_every_figure_comes_as_png_as_svg_and_with_its_numbers(drawn, whole):
    names = [f"{name}{'_none' if of == 'history' else ''}" for name, (of, _) in FIGURES.items()]
    assert len({name[:2] for name in names}) == len(names) == 9
    assert {p.name for p in drawn} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg", "csv")}
    heads = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml"}
    assert all(p.read_bytes().startswith(heads[p.suffix]) for p in drawn if p.suffix in heads)
    (file,) = (p for p in drawn if p.name == "F5_components_none.csv")
    with file.open() as rows:
        row = next(r for r in csv.DictReader(rows) if (r["model"], r["measure"]) == ("rloo", "auroc"))
    found = whole["histories"]["none"]["splits"]["in"]["measures"]["rloo"]["auroc"]
    assert [float(row[name]) for name in ("value", "low", "high")] == [found[n] for n in ("value", "low", "high")]


def test_bytes_repeat_whatever_the_users_settings(drawn, whole, tmp_path):
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.hashsalt": "other"}):
        again = draw(whole, tmp_path, kl_tax=tax)
        assert mpl.rcParams["font.size"] == 20
    for first, second in zip(drawn, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_arms_that_are_not_there_are_refused(whole, tmp_path):
    with pytest.raises(InputError, match=r"arms: received 'rlo'.*rloo"):
        draw(whole, tmp_path / "none", ["rlo"])
    assert not (tmp_path / "none").exists()


def test_values_that_are_not_defined_are_named_and_do_not_fail(tmp_path):
    report = results(("rloo",), seeds=(0,))
    nothing = {"value": None, "low": None, "high": None}
    entry = report["histories"]["none"]
    entry["curves"]["rloo"] = {"evaluation": entry["curves"]["rloo"]["evaluation"]}
    split = entry["splits"]["in"]
    split["measures"]["rloo"] |= {"b": nothing, "log_odds": nothing}
    split["swap"]["base"]["rloo"] = nothing
    split["roc"]["rloo"] = None
    files = draw(report, tmp_path)
    assert all(file.stat().st_size > 0 for file in files)
    assert "not defined" in (tmp_path / "F7_log_odds_none.svg").read_text()


@pytest.mark.parametrize("operation", ["addition", "multiplication"])
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

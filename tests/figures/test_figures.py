"""Figures of a study from results whose numbers are known."""

from __future__ import annotations

import csv
import json
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dsjax.cli.figures import figures
from dsjax.config import from_dict
from dsjax.errors import InputError
from dsjax.figures import draw
from dsjax.figures.style import FIGURES, GROUPS, Source, arm_style, blocks, line_style, new_figure, styled, write
from dsjax.study.calibration import coverage
from dsjax.study.chains import MEASURES, predicted
from dsjax.study.measures import Evaluated, Measures
from dsjax.study.report import _of_split, rounded
from dsjax.tasks import TASKS, PrefixSums
from dsjax.training.arms import ARMS
from dsjax.training.config import TrainConfig

N, K, T = 60, 5, 3


def training(models: tuple[str, ...], seed: int) -> Evaluated:
    """Samplers of rising accuracy; deciders of rising skill."""
    rng = np.random.default_rng(seed)
    step = min(0.1, 0.4 / len(models))
    right = np.stack([rng.random((N, K)) < 0.4 + step * i for i in range(len(models))])
    log_stop = np.log(
        np.stack([[np.where(r, 0.6 + step * d, 0.5 - step * d) for d in range(len(models))] for r in right])
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


def calibration():
    """Two planted causes; the second interval misses."""
    parts = {
        "three_terms": {part: {"planted": 0.1, "covered": 4} for part in ("sampler", "mix", "decider")},
        "accuracy": {part: {"planted": 0.02, "covered": 5} for part in ("sampler", "decider")},
    }
    cases = [
        {
            "kind": kind,
            "size": 0.5,
            "parts": {
                s: {k: {**x, "value": low + 0.1, "low": low, "high": low + 0.2} for k, x in of.items()}
                for s, of in parts.items()
            },
        }
        for kind, low in (("decider", 0.0), ("both", 0.15))
    ]
    found: dict[str, Any] = {"problems": 500, "repeats": 5, "rounds": T, "cases": cases}
    return {**found, "coverage": coverage(found)}


@pytest.fixture(scope="module")
def whole():
    """A report that every figure has something to show of."""
    theory = {"atlas": atlas(), "kl_tax": {"lattice": [{"beta": 0.1, "tax": 2.0}]}, "calibration": calibration()}
    report = results(("sft-self", "sft-self-l", "rloo"), theory=theory)
    entry = report["histories"]["none"]
    entry |= {"cells": cells(), "frontier": frontier(), "predicted": predicted(0.25, PrefixSums(10, 0, 3))}
    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry["splits"]["in"]["chains"] = {m: dict.fromkeys(MEASURES, number) for m in entry["models"]}
    return report


def cells():
    """One that was run, in and out of distribution, and one that was not."""

    def e(value, half):
        return {
            "value": value,
            "low": value - half,
            "high": value + half,
            "t_low": value - 2 * half,
            "t_high": value + 2 * half,
        }

    row = {
        "id": "labels",
        "arm": "rloo",
        "against": "sft-self",
        "ceiling": "regret",
        "predicted": {"regret": e(0.01, 0.002)},
    }
    row |= {
        "gap": e(0.05, 0.01),
        "equal": {"gap": e(0.02, 0.01)},
        "terms": {"sampler": e(0.3, 0.1), "decider": e(0.1, 0.2)},
    }
    row |= {"carrier": "sampler", "verdict": "reward is better"}
    other = {
        "id": "self",
        "arm": "grpo",
        "against": "sft-self",
        "ceiling": "room",
        "predicted": {},
        "verdict": "not run",
    }
    return [{**row, "split": "in"}, {**row, "split": "carry"}, {**other, "split": "carry"}]


def frontier():
    """Two seeds, three looks; one number that does not exist."""
    return {"rloo": {"step": [0, 5, 10], "in": [[0.2, 0.3, 0.4]] * 2, "carry": [[0.1, 0.2, None], [0.1, 0.1, 0.2]]}}


def tax(data, figure):
    figure.subplots().plot([row["beta"] for row in data["lattice"]], [row["tax"] for row in data["lattice"]])


@pytest.fixture(scope="module")
def drawn(whole, tmp_path_factory):
    return draw(whole, tmp_path_factory.mktemp("figures") / "new", kl_tax=tax)


def test_every_figure_comes_as_png_as_svg_and_with_its_numbers(drawn, whole):
    names = [f"{name}{'_none' if of == 'history' else ''}" for name, (of, _) in FIGURES.items()]
    assert len({name[:2] for name in names}) == len(names) == 14
    assert {p.name for p in drawn} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg", "csv")}
    heads = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml"}
    assert all(p.read_bytes().startswith(heads[p.suffix]) for p in drawn if p.suffix in heads)
    (file,) = (p for p in drawn if p.name == "F5_components_none.csv")
    with file.open() as rows:
        row = next(r for r in csv.DictReader(rows) if (r["model"], r["measure"]) == ("rloo", "auroc"))
    found = whole["histories"]["none"]["splits"]["in"]["measures"]["rloo"]["auroc"]
    assert [float(row[name]) for name in ("value", "low", "high")] == [found[n] for n in ("value", "low", "high")]


def test_figures_about_regimes_hold_every_cell_and_seed(drawn):
    def rows_of(name):
        (file,) = (p for p in drawn if p.name == f"{name}.csv")
        with file.open() as rows:
            return list(csv.DictReader(rows))

    (inside, outside) = rows_of("C2_predicted_regret")  # the cell that was not run has no point
    assert (inside["split"], outside["split"]) == ("in", "carry")
    # Student's intervals, which are twice as wide here.
    assert [float(inside[k]) for k in ("regret", "regret_low", "gap", "gap_high")] == pytest.approx(
        [0.01, 0.006, 0.05, 0.07]
    )
    ran, waiting = rows_of("C3_regime_map")  # out of distribution alone
    assert [ran[k] for k in ("regime", "arm", "carrier", "at_equal")] == ["study", "rloo", "sampler", "0.02"]
    assert (waiting["gap"], waiting["verdict"]) == ("", "not run")
    path = [(r["seed"], r["step"], r["inside"], r["outside"]) for r in rows_of("C4_frontier")]
    assert path[:3] == [("0", "0", "0.2", "0.1"), ("0", "5", "0.3", "0.2"), ("0", "10", "0.4", "")]
    assert len(path) == 6


def test_studies_in_a_folder_are_drawn_together(whole, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "all" / name / "pilot").mkdir(parents=True)
        data = {"format": 2, "jobs": {}, "report": whole}
        (tmp_path / "all" / name / "pilot" / "results.json").write_text(json.dumps(data))
    assert figures(tmp_path / "all", out=tmp_path) == 0
    assert {p.name[:2] for p in tmp_path.glob("*.png")} >= {"C2", "C3", "C4"}
    with (tmp_path / "C3_regime_map.csv").open() as rows:
        assert [row["regime"] for row in csv.DictReader(rows)] == ["one-pilot"] * 2 + ["two-pilot"] * 2
    with pytest.raises(InputError, match="arms"):
        figures(tmp_path / "all", arms=("rloo",))


def test_a_planted_cause_is_drawn_against_what_was_found(drawn):
    (file,) = (p for p in drawn if p.name == "C1_calibration.csv")
    with file.open() as rows:
        found = [row for row in csv.DictReader(rows) if (row["kind"], row["part"]) == ("both", "mix")]
    assert [(float(row["planted"]), float(row["low"])) for row in found] == [(0.1, 0.15)]
    (picture,) = (p for p in drawn if p.name == "C1_calibration.svg")
    assert picture.stat().st_size > 10_000


def test_closed_forms_stand_beside_the_runs(drawn):
    (file,) = (p for p in drawn if p.name == "C5_prefix_sums_none.csv")
    with file.open() as rows:
        found = {(r["panel"], r["model"], r["measure"], r["step"]): r["value"] for r in csv.DictReader(rows)}
    assert float(found["closed form", "", "imitation", ""]) == pytest.approx(0.5)
    assert float(found["decision", "rloo", "stop_on_chain", ""]) == 0.5
    assert float(found["training", "rloo", "accuracy", "10"]) == pytest.approx(0.9)


def test_bytes_repeat_whatever_the_users_settings(drawn, whole, tmp_path):
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.hashsalt": "other"}):
        again = draw(whole, tmp_path, kl_tax=tax)
        assert mpl.rcParams["font.size"] == 20
    for first, second in zip(drawn, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_png_and_svg_have_one_layout(tmp_path, monkeypatch):
    laid_out = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *x: (laid_out.append(x), execute(*x)))
    with styled():
        figure = new_figure(4, 3, "title")
        figure.subplots().set_ylabel("label")
        files = write(tmp_path / "some", figure)
    assert [file.suffix for file in files] == [".png", ".svg"]
    assert len(laid_out) == 1


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


def made(report, name) -> Any:
    """A figure of the history, not drawn into files."""
    entry = report["histories"]["none"]
    (make,) = (make for key, (_, make) in FIGURES.items() if key.startswith(name))
    with styled():
        return make(Source({}, entry, tuple(entry["models"][1:])))


@pytest.mark.parametrize("operation", ["addition", "multiplication"])
@pytest.mark.parametrize("width", [0, 4])
def test_weights_of_the_decision_are_those_that_the_arms_trained_with(operation, width):
    """The arm has weight L for answers of L tokens; a sum of 3 digits has 4 of them, a product 6."""
    drawn = made(results(("sft-self", "sft-self-l"), operation=operation, width=width), "F9")
    weights = {row["model"]: row["weight"] for row in drawn.rows}
    length = TASKS[operation](3, width).length
    assert length == {("addition", 0): 4, ("addition", 4): 5, ("multiplication", 0): 6}.get((operation, width), 8)
    assert weights == {"sft-self": 1.0, "sft-self-l": float(length), "base": None}


@pytest.mark.parametrize("arms", [("rft", "rloo"), ("sft-self", "rloo")])
def test_a_figure_with_nothing_to_show_is_left_out(arms):
    """Without arms of different weights there is nothing to compare."""
    assert made(results(arms), "F9") is None


def test_an_arm_looks_the_same_everywhere_and_unlike_others():
    looks = {arm: arm_style(arm) for arm in ("base", *ARMS)}
    seen = {(look["color"], look["marker"], str(look["linestyle"])) for look in looks.values()}
    assert len(seen) == len(looks)  # in greyscale too: marker and dashes differ inside of a colour
    assert {arm for group in GROUPS for arm in group} == set(ARMS)
    assert arm_style("mine:loss") == arm_style("mine:loss")


def test_many_arms_become_small_multiples():
    """At most eight in a panel; what had a column an arm has a row an arm."""
    assert [len(block) for block in blocks([*"abcdefgh"])] == [8]
    assert blocks([*"abcdefghi"]) == [tuple("abcd"), tuple("efghi")]
    arms = tuple(ARMS)[:9]
    report = results(arms, seeds=(0,))
    figures = {name: made(report, name) for name in ("F4", "F5", "F7")}
    lines = [len(ax.get_legend().get_texts()) for ax in figures["F5"].figure.axes if ax.get_legend()]
    assert lines == [5, 6]  # ROC curves, the base in both
    (panel,) = figures["F7"].figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == list(arms)
    coloured = [[x for x in ax.lines if x.get_color() != "0.85"] for ax in figures["F4"].figure.axes]
    assert max(map(len, coloured)) <= 8


def test_lines_without_arms_look_different_from_each_other():
    looks = {(line_style(i)["color"], line_style(i)["marker"]) for i in range(40)}
    assert len(looks) == 40

"""Planted causes: their sizes are exact, the accounting finds them, and finds no other ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.evaluation.samples import draw_samples, judge
from dsjax.policies import TransformerPolicy
from dsjax.statistics import Estimate
from dsjax.study.calibration import coverage, jobs, report
from dsjax.study.calibration_cases import (
    Case,
    Tabulated,
    World,
    believed,
    between,
    evaluated,
    found_sizes,
    holds,
    planted_sizes,
    tabulated,
)
from dsjax.study.jobs import Definition
from dsjax.study.results import read_results
from dsjax.tasks import Addition

ROOT = Path(__file__).parents[2]
STUDY = Definition.read(ROOT / "experiments" / "causes" / "calibration")
T = 3


def world(Q: int = 40, A: int = 6) -> World:
    """Problems of which a third of the answers are right."""
    right = np.zeros((Q, A))
    right[:, : A // 3] = 1
    return World(np.arange(Q)[:, None], np.arange(A)[:, None], right)


def policy(of: World, seed: int, skill: float = 0.0) -> Tabulated:
    """Random tables; `skill` moves both components towards right answers."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=of.right.shape) + rng.normal(size=(len(of.right), 1)) * of.right + skill * of.right
    stop = 1 / (1 + np.exp(-(rng.normal(size=of.right.shape) + (1 + skill) * (of.right - 0.5))))
    law = np.exp(logits)
    return Tabulated(law / law.sum(1, keepdims=True), stop)


def tilted(of: World, old: Tabulated) -> np.ndarray:
    """A sampler that is right more often and, where it is wrong, more often in a way that the decider keeps."""
    law = old.law * np.exp(0.7 * of.right + 4 * (1 - of.right) * old.stop)
    return law / law.sum(1, keepdims=True)


WORLD = world()
BASE = policy(WORLD, 0)
BOTH = Tabulated(tilted(WORLD, BASE), policy(WORLD, 1, 0.7).stop)
KINDS = {
    "both": Case("both", 1, BOTH),
    "sampler": Case("sampler", 1, Tabulated(BOTH.law, BASE.stop)),
    "decider": Case("decider", 1, Tabulated(BASE.law, BOTH.stop)),
    "neither": Case("neither", 0, BASE, apart=True),
}


def test_planted_accuracy_is_that_of_all_episodes():
    """Written out: every problem, answers and decisions of three rounds."""
    small = world(2, 3)
    old, new = policy(small, 2), policy(small, 3, 1.0)

    def accuracy(law: np.ndarray, stop: np.ndarray) -> float:
        total = 0.0
        for q, answers in itertools.product(range(2), itertools.product(range(3), repeat=T)):
            alive = 0.5
            for t, y in enumerate(answers):
                alive *= law[q, y]
                stays = 1.0 if t == T - 1 else stop[q, y]
                rest = 1.0  # the later answers' laws sum to 1: count each beginning once
                if all(later == 0 for later in answers[t + 1 :]):
                    total += alive * stays * rest * small.right[q, y]
                alive *= 1 - stays
        return total

    whole = accuracy(*new) - accuracy(*old)
    half = accuracy(new.law, old.stop) - accuracy(*old), accuracy(*new) - accuracy(old.law, new.stop)
    found = planted_sizes(small, old, new, T)["accuracy"]
    assert found["sampler"] == pytest.approx(sum(half) / 2, abs=1e-14)
    assert found["sampler"] + found["decider"] == pytest.approx(whole, abs=1e-14)


def test_planted_terms_at_a_case_by_hand():
    """T22's own: a sampler that moves from one wrong answer to another is all mix, with a decider nobody touched."""
    one = World(np.zeros((1, 1)), np.arange(3)[:, None], np.array([[1.0, 0.0, 0.0]]))
    stop = np.array([[0.5, 0.9, 0.1]])
    old, new = Tabulated(np.array([[0.5, 0.4, 0.1]]), stop), Tabulated(np.array([[0.5, 0.1, 0.4]]), stop)
    found = planted_sizes(one, old, new, T)["three_terms"]
    assert found["sampler"] == pytest.approx(0, abs=1e-15)
    assert found["mix"] == pytest.approx(np.log(0.37 / 0.13), abs=1e-14)
    assert found["decider"] == 0


def found(case: Case, runs: int) -> list[dict[str, dict[str, Estimate]]]:
    """What the accounting finds in independent evaluations."""
    draws = (evaluated(WORLD, BASE, case, T, 300, np.random.default_rng([7, i])) for i in range(runs))
    return [found_sizes(e, 200) for e in draws]


@pytest.mark.parametrize("kind", ["both", "neither"])
def test_intervals_hold_what_was_planted_as_often_as_they_say(kind):
    """Of 100 intervals of 95 % at most four standard deviations fewer than expected: 87."""
    case, runs = KINDS[kind], 100
    sizes, of = planted_sizes(WORLD, BASE, case.policy, T), found(case, runs)
    for scale, parts in sizes.items():
        for part, planted in parts.items():
            assert sum(holds(f[scale][part], planted) for f in of) >= 87, (scale, part)
    if kind == "both":  # the control: the mix in the decider's term, and a term of the wrong sign
        terms = sizes["three_terms"]
        for part, wrong in (("decider", terms["mix"] + terms["decider"]), ("sampler", -terms["sampler"])):
            assert sum(holds(f["three_terms"][part], wrong) for f in of) < 50, part


@pytest.mark.parametrize(("kind", "still"), [("sampler", "decider"), ("decider", "sampler")])
def test_a_component_that_nobody_touched_has_brought_nothing_for_sure(kind, still):
    sizes = planted_sizes(WORLD, BASE, KINDS[kind].policy, T)
    for f in found(KINDS[kind], 2):
        for scale in sizes:
            assert sizes[scale][still] == pytest.approx(0, abs=1e-15)
            assert max(abs(f[scale][still].low), abs(f[scale][still].high)) < 1e-12


def test_imitators_of_flipped_labels_know_less_and_less():
    stops = [believed(WORLD, BASE, eta) for eta in (0.0, 0.2, 0.4, 0.5)]
    gained = [planted_sizes(WORLD, BASE, Tabulated(BASE.law, stop), T)["three_terms"]["decider"] for stop in stops]
    assert gained == sorted(gained, reverse=True)
    np.testing.assert_allclose(stops[-1], 0.5, rtol=0, atol=1e-15)
    # Calibrated: of all answers in a bin of the base, the part that is right.
    mass = BASE.law / len(BASE.law)
    assert (mass * stops[0]).sum() == pytest.approx((mass * WORLD.right).sum(), abs=1e-14)


def test_tables_are_the_law_that_evaluations_draw_from():
    task = Addition(1)
    of = World.of(task)
    assert of.right.sum(1).tolist() == [1.0] * 100
    net = TransformerPolicy.for_task(task, T, layers=1, width=8, heads=2, separate_trunks=True)
    base, donor = (net.init(jax.random.key(i)) for i in range(2))
    moved = between(base, donor, "decider", 1.0)
    table, other = (tabulated(net, params, of) for params in (base, moved))
    np.testing.assert_allclose(table.law.sum(1), 1, atol=1e-14)
    np.testing.assert_array_equal(table.law, other.law)  # the sampler is frozen
    problems = task.problems(np.array([[[2], [7]], [[9], [9]], [[0], [1]]], np.int32))
    samples, own = draw_samples(net, base, task, problems, jax.random.key(2), T)
    row = np.array([27, 99, 1])[:, None]
    answer = np.asarray(samples.answers) @ np.array([10, 1])
    # Cached decoding and reading at once round differently, by some units of float32.
    np.testing.assert_allclose(np.log(table.stop[row, answer]), own, atol=2e-5)
    np.testing.assert_allclose(np.log(other.stop[row, answer]), judge(net, moved, samples), atol=2e-5)
    np.testing.assert_array_equal(of.right[row, answer] > 0.5, samples.right)


def result(cases: int = 40, off: int = 0) -> dict[str, Any]:
    """Of a calibration in which the first `off` intervals of the mix miss."""

    def part(miss: bool) -> dict[str, float]:
        return {"planted": 0.1, "covered": 4, "value": 0.2, "low": 0.15 if miss else 0.0, "high": 0.3}

    def parts(i: int) -> dict[str, Any]:
        return {
            "three_terms": {"sampler": part(False), "mix": part(i < off), "decider": part(False)},
            "accuracy": {"sampler": part(False), "decider": part(False)},
        }

    rows = [{"kind": ("both", "neither")[i % 2], "size": 0.5, "parts": parts(i)} for i in range(cases)]
    return {"problems": 500, "repeats": 5, "rounds": 3, "cases": rows}


@pytest.mark.parametrize(("off", "verdict"), [(4, "supported"), (5, "contradicted")])
def test_the_report_counts_and_judges(off, verdict, tmp_path):
    done = {"calibration": {"options": {}, "result": result(off=off)}}
    found = report({"jobs": done, "missing": []}, tmp_path, STUDY)
    json.dumps(found, allow_nan=False)
    verdicts = {h["id"]: h["verdict"] for h in found["hypotheses"]}
    assert verdicts == {"K1": "supported", "K2": verdict, "K3": "supported", "K4": "supported", "K5": "supported"}
    counted = coverage(result(off=off))["three_terms"]["mix"]
    assert (counted["covered"], counted["of"], counted["repeated_moving"]) == (40 - off, 40, 160)


def test_the_study_plants_forty_causes_and_refuses_what_it_cannot_write_down():
    found = STUDY.study("cpu").jobs
    assert sum(map(len, found["calibration"].options["dials"].values())) == 40
    assert [*found["calibration"].needs] == [name for name in found if name != "calibration"]
    settings = STUDY.settings_of("cpu")
    for change, words in (
        ({"train": {**settings["train"], "digits": 2}}, "two numbers of one digit"),
        ({"train": {**settings["train"], "separate_trunks": False}}, "components that can be swapped"),
        ({"calibration": {**settings["calibration"], "donor": "rloo"}}, "calibration.donor: received 'rloo'"),
        ({"calibration": {**settings["calibration"], "problems": 0}}, "calibration.problems: received 0"),
    ):
        with pytest.raises(InputError, match=words):
            jobs({**settings, **change})


def test_the_stored_calibration_is_of_this_study_and_what_the_readme_says():
    _, stored = read_results("run", ROOT / "experiments" / "causes" / "calibration")
    assert stored["hypotheses"] == list(STUDY.hypotheses)
    assert stored["jobs"]["calibration"]["options"] == STUDY.study("cpu").jobs["calibration"].options
    of = coverage(stored["jobs"]["calibration"]["result"])
    assert of == stored["report"]["theory"]["calibration"]["coverage"]
    terms = [of["three_terms"][part]["covered"] for part in ("sampler", "mix", "decider")]
    assert "within their 95 % intervals in {}, {} and {} cases".format(*terms) in (ROOT / "README.md").read_text()
    assert min(n["covered"] for parts in of.values() for n in parts.values()) >= 36
    # Repeated on parts that can move, 120 intervals and more a part: within four standard deviations of 95 %.
    for parts in of.values():
        for n in parts.values():
            share, error = n["repeated_moving"] / n["repeats_moving"], np.sqrt(0.95 * 0.05 / n["repeats_moving"])
            assert abs(share - 0.95) < 4 * error


def test_an_interval_of_one_point_holds_what_it_is_up_to_rounding():
    assert holds(Estimate(0.0, 1e-17, 1e-17), 0.0)
    assert not holds(Estimate(0.1, 0.05, 0.15), 0.2)

"""Estimates and intervals against brute force, hand-computed resamples and simulated coverage."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dsjax import statistics
from dsjax.statistics import (
    ANY,
    PROBABILITY,
    Replicated,
    auroc,
    bootstrap_weights,
    difference,
    estimate,
    interval,
    ratio_of_sums,
    roc_curve,
    t_test,
    widening,
)

# Sums of at most 200 terms of size <= 1, and one quotient.
EXACT = 1e-12


def pair_count(score, right, weight) -> float:
    """Every pair of a right and a wrong attempt, one by one, with the product of their problems' weights."""
    won = total = 0.0
    for i, j in np.ndindex(score.shape):
        for k, m in np.ndindex(score.shape):
            if right[i, j] and not right[k, m]:
                pair = weight[i] * weight[k]
                total += pair
                won += pair * (1.0 if score[i, j] > score[k, m] else 0.5 if score[i, j] == score[k, m] else 0.0)
    return won / total


@pytest.mark.parametrize("levels", [2, 4, None], ids=["two scores", "many ties", "no ties"])
def test_auroc_is_the_share_of_pairs_in_the_right_order(levels):
    rng = np.random.default_rng(0)
    score = rng.random((6, 3)) if levels is None else rng.integers(0, levels, (6, 3)) / levels
    right = rng.random((6, 3)) < 0.4
    weights = np.concatenate([np.ones((1, 6)), rng.integers(0, 4, (5, 6)), rng.random((2, 6))])
    got = auroc(score, right)(weights)
    np.testing.assert_allclose(got, [pair_count(score, right, w) for w in weights], rtol=0, atol=EXACT)
    np.testing.assert_allclose(auroc(-score, right)(weights), 1 - got, rtol=0, atol=EXACT)
    # A weight is a number of copies of the problem.
    copies = weights[1].astype(int)
    alone = auroc(np.repeat(score, copies, axis=0), np.repeat(right, copies, axis=0))(np.ones((1, copies.sum())))
    assert alone[0] == pytest.approx(got[1], abs=EXACT)


def test_auroc_at_hand_computed_values():
    def of(score, right):
        return auroc(np.array([score]), np.array([right], bool))(np.ones((1, 1)))[0]

    assert of([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1
    assert of([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == 0
    assert of([0.1, 0.2, 0.8, 0.9], [0, 1, 0, 1]) == 0.75
    assert of([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    # Right at 0.3 and 0.7, wrong at 0.3 and 0.5: of four pairs one is a tie and two are won.
    assert of([0.3, 0.7, 0.3, 0.5], [1, 1, 0, 0]) == 0.625
    # Probabilities far apart only on a log scale, and 0 itself.
    assert of([0.0, 1e-300, 1e-200], [0, 1, 1]) == 1
    assert of([-np.inf, -np.inf, 0.0], [0, 1, 1]) == 0.75


def test_auroc_that_does_not_exist_is_nan():
    score = np.array([[0.1, 0.2], [0.3, 0.4]])
    one = np.ones((1, 2))
    for empty in (np.zeros((2, 2), bool), np.ones((2, 2), bool)):
        assert np.isnan(auroc(score, empty)(one)[0])
    right = np.array([[True, True], [False, False]])
    values = auroc(score, right)(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(values, [0.0, np.nan, np.nan])  # a resample without right, or without wrong answers
    assert np.isnan(auroc(np.array([[0.1, np.nan], [0.3, 0.4]]), right)(one)[0])  # never silently a number


def test_ratio_and_difference_at_hand_computed_values():
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    a = ratio_of_sums(np.array([1.0, 5.0, 2.0]), np.array([2.0, 0.0, 4.0]))
    np.testing.assert_array_equal(a(weights), [8 / 6, 4 / 8, np.nan])
    b = ratio_of_sums(np.array([0.0, 1.0, 0.0]), np.ones(3))
    np.testing.assert_allclose(difference(a, b)(weights), [1.0, 0.5, np.nan], rtol=0, atol=EXACT)


def test_interval_is_made_of_quantiles_of_what_is_finite():
    samples = np.arange(101.0)
    assert interval(samples, 0.9) == pytest.approx((5.0, 95.0))
    assert interval(samples) == pytest.approx((2.5, 97.5))
    assert interval(np.concatenate([samples, [np.nan, np.inf, -np.inf]])) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval(np.array([np.nan, np.inf]))).all()
    assert interval(np.array([0.25])) == (0.25, 0.25)


def test_weights_are_resamples_of_the_problems():
    w = bootstrap_weights(50, 400, seed=3)
    assert w.shape == (400, 50)
    np.testing.assert_array_equal(w.sum(1), 50)
    np.testing.assert_array_equal(w, np.round(w))
    # Each weight is Binomial(50, 1/50): mean 1, variance 0.98, fourth central moment below 4. 20 000 of them are
    # nearly independent, so five standard errors are 5 sqrt(0.98/20000) = 0.035 and 5 sqrt(4/20000) = 0.07.
    assert np.abs(w.mean(0) - 1).max() < 5 * np.sqrt(0.98 / 400)
    assert ((w - 1) ** 2).mean() == pytest.approx(0.98, abs=0.07)
    np.testing.assert_array_equal(bootstrap_weights(1, 5), 1)


def test_a_seed_fixes_the_interval():
    np.testing.assert_array_equal(bootstrap_weights(7, 9, seed=1), bootstrap_weights(7, 9, seed=1))
    assert (bootstrap_weights(7, 9, seed=1) != bootstrap_weights(7, 9, seed=2)).any()
    mean = ratio_of_sums(np.arange(20.0), np.ones(20))
    assert estimate(mean, 20, 50, seed=1) == estimate(mean, 20, 50, seed=1)
    assert estimate(mean, 20, 50, seed=1) != estimate(mean, 20, 50, seed=2)


def test_an_estimate_at_hand_computed_values():
    """Two problems, 0 and 1: a resample has mean 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4."""
    half = estimate(ratio_of_sums(np.array([0.0, 1.0]), np.ones(2)), 2, 2000)
    assert half == {"value": 0.5, "low": 0.0, "high": 1.0}
    # Constant over problems: every resample agrees.
    assert estimate(ratio_of_sums(np.full(5, 3.0), np.ones(5)), 5) == {"value": 3.0, "low": 3.0, "high": 3.0}
    # One problem is no sample of problems: the interval is a point and claims nothing.
    assert estimate(ratio_of_sums(np.array([0.7]), np.ones(1)), 1) == {"value": 0.7, "low": 0.7, "high": 0.7}


def test_what_does_not_exist_is_none():
    nothing = estimate(ratio_of_sums(np.zeros(4), np.zeros(4)), 4, 10)
    assert nothing == {"value": None, "low": None, "high": None}
    infinite = estimate(lambda w: np.full(len(w), np.inf), 4, 10)
    assert infinite == {"value": None, "low": None, "high": None}
    json.dumps(nothing, allow_nan=False)
    # One right answer in eight problems: resamples without it are left out, the estimate stands.
    rare = np.eye(1, 8)[0]
    one = estimate(ratio_of_sums(0.3 * rare, rare), 8, 200)
    assert one == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})


def test_the_interval_covers_and_attempts_are_not_problems():
    """Problems differ, attempts at one of them do not: the truth is inside about 95 % of the time.

    Of 300 intervals from 60 problems; a percentile interval of that size covers 93 to 95 %, give or take 1.4 %
    (binomial). Counting 4 equal attempts as 4 independent ones halves the width: 67 % are then inside.
    """
    rng = np.random.default_rng(0)
    inside = naive = 0
    for i in range(300):
        value = np.repeat(rng.random((60, 1)) < 0.3, 4, axis=1).astype(float)
        of_problems: Any = estimate(ratio_of_sums(value.sum(1), np.full(60, 4.0)), 60, 200, seed=i)
        of_attempts: Any = estimate(ratio_of_sums(value.ravel(), np.ones(240)), 240, 200, seed=i)
        inside += of_problems["low"] <= 0.3 <= of_problems["high"]
        naive += of_attempts["low"] <= 0.3 <= of_attempts["high"]
    assert 0.88 < inside / 300 < 0.98
    assert naive / 300 < 0.78


def test_a_paired_difference_is_narrower():
    """b = a + 0.1 at every problem: resampled together the difference has no spread at all, apart it has."""
    a = np.random.default_rng(1).random(40)
    ones = np.ones(40)
    x, y = ratio_of_sums(a + 0.1, ones), ratio_of_sums(a, ones)
    paired = estimate(difference(x, y), 40, 300)
    assert paired == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1}, abs=EXACT)
    apart = interval(x(bootstrap_weights(40, 300, seed=1)) - y(bootstrap_weights(40, 300, seed=2)))
    assert apart[1] - apart[0] > 0.1


def test_the_roc_curve_runs_from_accepting_all_to_none_and_its_area_is_the_auroc():
    rng = np.random.default_rng(2)
    right = rng.random((200, 2)) < 0.5
    score = rng.normal(size=(200, 2)) + right
    curve = roc_curve(score, right, points=401)
    assert curve is not None
    x, y = np.array(curve["wrong_accepted"]), np.array(curve["right_accepted"])
    assert (x[0], y[0], x[-1], y[-1]) == (1, 1, 0, 0)
    assert (np.diff(x) <= 0).all()
    assert (np.diff(y) <= 0).all()
    area = -np.trapezoid(y, x)
    # A threshold a pair of neighbouring scores at most: what lies between two thresholds is 1/200 of each class.
    assert area == pytest.approx(auroc(score, right)(np.ones((1, 200)))[0], abs=1 / 200)
    assert area > 0.7  # N(1, 1) against N(0, 1): 0.76


def test_the_roc_curve_at_hand_computed_values():
    score, right = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])
    assert roc_curve(score, right, points=3) == {
        "wrong_accepted": [1.0, 0.5, 0.0, 0.0],
        "right_accepted": [1.0, 1.0, 0.5, 0.0],
    }
    for one_class in (np.zeros(4, bool), np.ones(4, bool)):
        assert roc_curve(score, one_class) is None


def replicated(values, n=50, spread=0.1, seed=0):
    """A mean over n problems in trainings with these values."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(1, n)) * spread
    noise -= noise.mean()
    weights = bootstrap_weights(n, 400)
    return Replicated.of([ratio_of_sums(v + noise[0], np.ones(n)) for v in values], weights)


def test_trainings_and_problems_both_widen_the_interval():
    alone = replicated([0.5, 0.5, 0.5]).estimate()
    assert alone["value"] == pytest.approx(0.5, abs=EXACT)
    assert alone["seeds"] == pytest.approx([0.5] * 3, abs=EXACT)
    # Problems alone: 1.96 x 0.1/sqrt(50) = 0.028 to each side, from 400 resamples.
    assert 0.018 < alone["value"] - alone["low"] < 0.04
    apart = replicated([0.3, 0.5, 0.7]).estimate()
    assert apart["high"] - apart["low"] > 2 * (alone["high"] - alone["low"])


@pytest.mark.parametrize("trainings", [3, 5])
def test_the_interval_over_few_trainings_covers_and_a_plain_bootstrap_does_not(trainings, monkeypatch):
    """Of 600 studies of normal trainings with mean 0: 95 % is 570 +- 4 x 5.3."""

    def covered() -> int:
        rng = np.random.default_rng(1)
        found = (rng.normal(size=trainings) for _ in range(600))
        estimates = (Replicated(v, np.repeat(v[:, None], 500, axis=1)).estimate(seed=i) for i, v in enumerate(found))
        return sum(e["low"] <= 0 <= e["high"] for e in estimates)

    assert abs(covered() - 570) < 22
    monkeypatch.setattr(statistics, "widening", lambda trainings: 1.0)
    assert covered() < 530


def test_the_widening_is_students_and_goes_away():
    """t_0.975 of 2 degrees is 4.302653, z is 1.959964."""
    assert widening(3) == pytest.approx(4.302652729911275 / 1.959963984540054 * 1.5**0.5, rel=1e-9)
    assert widening(10_000) == pytest.approx(1, abs=1e-3)
    one = Replicated(np.array([0.5]), np.array([[0.4, 0.5, 0.6]])).estimate()  # one training: problems alone
    assert (one["low"], one["high"]) == pytest.approx((0.405, 0.595), abs=EXACT)


def test_intervals_are_cut_to_what_is_possible():
    values = np.array([0.9, 1.0, 0.95])
    free, cut = (Replicated(values, np.repeat(values[:, None], 400, axis=1), w).estimate() for w in (ANY, PROBABILITY))
    assert min(free["high"], free["t_high"]) > 1
    assert (cut["high"], cut["t_high"]) == (1.0, 1.0)
    assert all(cut[name] == free[name] for name in ("value", "low", "t_low", "p"))
    one = Replicated(values, np.repeat(values[:, None], 400, axis=1), PROBABILITY)
    assert (one - one).within == (-1.0, 1.0)


def test_differences_of_trainings_are_paired():
    x, y = replicated([0.4, 0.6, 0.9]), replicated([0.3, 0.5, 0.8])
    found = (x - y).estimate()
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.1), abs=EXACT)
    assert found["p"] < 1e-12
    assert x.estimate()["p"] > 0.01


def test_a_training_without_a_value_gives_none():
    found = replicated([0.4, np.nan, 0.5]).estimate()
    assert [found[name] for name in ("value", "low", "high", "t_low", "t_high", "p")] == [None] * 6
    assert found["seeds"][1] is None
    json.dumps(found, allow_nan=False)


def test_student_by_hand():
    """Values 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 2 sqrt(3) with 2 degrees, t_0.975 = 4.302653.

    With two degrees the tail is closed: P(T > t) = (1 - t/sqrt(2 + t^2))/2.
    """
    low, high, p = t_test(np.array([1.0, 2.0, 3.0]))
    t = 2 * np.sqrt(3)
    assert (low, high) == pytest.approx(
        (2 - 4.302652729911275 / np.sqrt(3), 2 + 4.302652729911275 / np.sqrt(3)), rel=1e-9
    )
    assert p == pytest.approx(1 - t / np.sqrt(2 + t * t), rel=1e-9)
    assert all(np.isnan(t_test(np.array(v))).all() for v in ([1.0], [1.0, np.nan]))
    assert t_test(np.zeros(3))[2] == 1
    assert t_test(np.ones(3))[2] == 0

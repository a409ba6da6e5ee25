"""Calibration, matched resample rates and rival rules: by hand, by enumeration, and where they must agree."""

from __future__ import annotations

import numpy as np
import pytest

from dsjax.evaluation.accounting import final_accuracy
from dsjax.evaluation.deciders import (
    Use,
    accuracy_at_rate,
    at_equal_cost,
    at_resample_rate,
    best_right,
    brier_score,
    majority_right,
    reliability,
    rules,
)

EXACT = 1e-13  # sums of some tens of terms of size <= 1
ONE = np.ones((1, 40))


def some(seed: int, n: int = 40, k: int = 5):
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 3, size=(n, k, 1)).astype(np.int8)
    return answers, answers[..., 0] == 0, rng.random((n, k))


def test_brier_and_reliability_by_hand():
    stop, right = np.array([[0.8, 0.2], [0.25, 0.75]]), np.array([[True, False], [True, True]])
    assert brier_score(stop, right)(np.ones((1, 2)))[0] == pytest.approx((0.04 + 0.04 + 0.5625 + 0.0625) / 4, abs=EXACT)
    found = reliability(stop, right, bins=2)
    assert found["count"] == [2, 2]
    assert found["stop"] == pytest.approx([0.225, 0.775])
    assert found["right"] == [0.5, 1.0]
    assert found["error"] == pytest.approx((abs(0.45 - 1) + abs(1.55 - 2)) / 4)
    assert reliability(np.array([[1.0]]), np.array([[True]]), bins=4)["right"] == [None, None, None, 1.0]


def test_a_calibrated_decider_has_no_error_and_a_shifted_one_has():
    rng = np.random.default_rng(0)
    stop = rng.random((20000, 1))
    right = rng.random(stop.shape) < stop
    # Ten bins of 2000: the mean of |N(0, p (1 - p) / 2000)| is below 0.009.
    assert reliability(stop, right)["error"] < 0.015
    assert reliability(stop**2, right)["error"] > 0.1


def test_a_resample_rate_is_met_whatever_the_ties():
    score = np.array([[0.1, 0.5, 0.5], [0.5, 0.9, 0.95]])
    for rate in (0.0, 0.1, 1 / 6, 0.4, 0.5, 1.0):
        stop = at_resample_rate(score, rate)
        assert (1 - stop).mean() == pytest.approx(rate, abs=EXACT)
        assert len(np.unique(stop[score == 0.5])) == 1
        order = np.argsort(score, axis=None)
        assert (np.diff(stop.ravel()[order]) >= 0).all()


def test_only_the_ranking_counts_at_a_given_rate():
    _, right, stop = some(1)
    at = [float(accuracy_at_rate(right, f(stop), 0.3)(ONE)[0]) for f in (lambda x: x, lambda x: x**5, lambda x: 1 - x)]
    assert at[0] == at[1]
    assert at[0] != at[2]
    never = accuracy_at_rate(right, stop, 0.0)(ONE)[0]
    assert never == pytest.approx(right[:, 0].mean(), abs=EXACT)


def test_majority_by_enumeration_of_ties():
    answers, right, _ = some(2)
    for k in range(1, 6):
        for i in range(len(right)):
            votes = {a: list(answers[i, :k, 0]).count(a) for a in set(answers[i, :k, 0].tolist())}
            winners = [a for a, v in votes.items() if v == max(votes.values())]
            assert majority_right(answers, right, k)[i] == pytest.approx((0 in winners) / len(winners), abs=EXACT)


def test_best_of_k_takes_the_highest():
    right = np.array([[False, True, True]])
    assert best_right(right, np.array([[0.9, 0.1, 0.2]]), 3)[0] == 0
    assert best_right(right, np.array([[0.1, 0.9, 0.2]]), 3)[0] == 1
    assert best_right(right, np.array([[0.9, 0.9, 0.2]]), 3)[0] == 0.5
    assert best_right(right, np.array([[0.1, 0.9, 0.2]]), 1)[0] == 0


def test_rules_in_their_order():
    """One sample is one sample; the oracle bounds every rule that stops by rounds; a blind decider gains nothing."""
    answers, right, stop = some(3, n=4000)
    found = rules(answers, right, stop)
    for rule, uses in found.items():
        np.testing.assert_allclose(uses[0].right, right[:, 0], err_msg=rule)
        np.testing.assert_allclose(uses[0].samples, 1.0, err_msg=rule)
    np.testing.assert_array_equal(found["oracle"][-1].right, right.any(axis=1))
    assert (found["decider"][-1].right <= found["oracle"][-1].right + EXACT).all()
    np.testing.assert_allclose(found["decider"][2].right, final_accuracy(right[:, :3], stop[:, :3]))
    # Samples of a problem have one law here, so a rule that does not look at them is right in a third: 4 errors.
    assert found["random"][-1].right.mean() == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 4000))


def test_equal_cost_mixes_neighbours():
    rule = [Use(np.full(40, r), np.full(40, a)) for r, a in ((0.2, 1.0), (0.2, 2.0), (0.8, 3.0))]
    for spent in (1.0, 1.5, 2.5, 3.0):
        expected = 0.7 - np.interp(spent, [1, 2, 3], [0.2, 0.2, 0.8])
        found = at_equal_cost(rule, Use(np.full(40, 0.7), np.full(40, spent)))(ONE)[0]
        assert found == pytest.approx(expected, abs=EXACT)
    found = rules(*some(4))["decider"]
    assert at_equal_cost(found, found[2])(ONE)[0] == pytest.approx(0.0, abs=EXACT)

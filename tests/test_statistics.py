"""Estimates and intervals against brute force, hand-computed resamples and simulated coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dsjax import statistics
from dsjax.statistics import (
    ANY,
    PROBABILITY,
    Bootstrap,
    Estimate,
    Resampled,
    auroc,
    difference,
    estimate,
    interval,
    mean,
    ratio_of_sums,
    roc_curve,
    t_test,
    widening,
)

# Sums of at most 200 terms of size <= 1, and one quotient.
EXACT = 1e-12


def pair_count(score, right, weight) -> float:
    """Every pair of a correct and a wrong sample, one by one, with the product of their problems' weights."""
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
    np.testing.assert_array_equal(mean(np.array([1.0, 5.0, 2.0]))(weights), [8 / 3, 4 / 3, 5.0])


def test_interval_is_made_of_quantiles_of_what_is_finite():
    samples = np.arange(101.0)
    assert interval(samples, 0.9) == pytest.approx((5.0, 95.0))
    assert interval(samples) == pytest.approx((2.5, 97.5))
    assert interval(np.concatenate([samples, [np.nan, np.inf, -np.inf]])) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval(np.array([np.nan, np.inf]))).all()
    assert interval(np.array([0.25])) == (0.25, 0.25)


def test_weights_are_resamples_of_the_problems():
    (w,) = Bootstrap(50, 400, seed=3).weights()
    assert w.shape == (400, 50)
    np.testing.assert_array_equal(w.sum(1), 50)
    np.testing.assert_array_equal(w, np.round(w))
    # Each weight is Binomial(50, 1/50): mean 1, variance 0.98, fourth central moment below 4. 20 000 of them are
    # nearly independent, so five standard errors are 5 sqrt(0.98/20000) = 0.035 and 5 sqrt(4/20000) = 0.07.
    assert np.abs(w.mean(0) - 1).max() < 5 * np.sqrt(0.98 / 400)
    assert ((w - 1) ** 2).mean() == pytest.approx(0.98, abs=0.07)
    np.testing.assert_array_equal(next(Bootstrap(1, 5).weights()), 1)


def test_a_seed_fixes_the_interval_and_memory_does_not(monkeypatch):
    statistic = mean(np.arange(20.0))
    first, again, other = (estimate(statistic, 20, 50, seed).to_json() for seed in (1, 1, 2))
    assert first == again != other
    monkeypatch.setattr(statistics, "CHUNK", 60)
    chunks = list(Bootstrap(20, 50, seed=1).weights())
    assert [len(w) for w in chunks] == [3] * 16 + [2]
    assert estimate(statistic, 20, 50, seed=1).to_json() == first


def test_an_estimate_at_hand_computed_values():
    """Two problems, 0 and 1: a resample has mean 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4."""
    half = estimate(mean(np.array([0.0, 1.0])), 2, 2000)
    assert half.to_json() == {"value": 0.5, "low": 0.0, "high": 1.0}
    # Constant over problems: every resample agrees.
    assert estimate(mean(np.full(5, 3.0)), 5).to_json() == {"value": 3.0, "low": 3.0, "high": 3.0}
    # One problem is no sample of problems: the interval is a point and claims nothing.
    assert estimate(mean(np.array([0.7])), 1).to_json() == {"value": 0.7, "low": 0.7, "high": 0.7}
    # Without resamples there is a value alone.
    assert estimate(mean(np.array([0.7])), 1, 0).to_json() == {"value": 0.7, "low": None, "high": None}


def test_an_estimate_formats_itself_and_knows_its_json():
    one, many = Estimate(0.1234, 0.1, 0.15), Estimate(0.5, 0.4, 0.6, 0.3, 0.7, 0.01, (0.4, math.nan))
    assert (f"{one:.3f}", f"{one:+.1%}") == ("0.123 [0.100, 0.150]", "+12.3% [+10.0%, +15.0%]")
    assert (f"{Estimate(0.5):.2f}", f"{Estimate(math.nan, 0.0, 1.0):.2f}") == ("0.50", "-")
    assert one.to_json() == {"value": 0.1234, "low": 0.1, "high": 0.15}
    ends = {"low": 0.4, "high": 0.6, "t_low": 0.3, "t_high": 0.7, "p": 0.01}
    assert list(many.to_json().items()) == list({"value": 0.5, **ends, "seeds": [0.4, None]}.items())
    assert [Estimate.from_json(e.to_json()).to_json() for e in (one, many)] == [one.to_json(), many.to_json()]
    assert not Estimate.from_json(None)


def test_what_does_not_exist_is_none():
    for statistic in (ratio_of_sums(np.zeros(4), np.zeros(4)), lambda w: np.full(len(w), np.inf)):
        nothing = estimate(statistic, 4, 10)
        assert not nothing
        assert nothing.to_json() == {"value": None, "low": None, "high": None}
    # One right answer in eight problems: resamples without it are left out, the estimate stands.
    rare = np.eye(1, 8)[0]
    one = estimate(ratio_of_sums(0.3 * rare, rare), 8, 200)
    assert one.to_json() == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})


def test_the_interval_covers_and_samples_are_not_problems():
    """Problems differ, samples of one of them do not: the truth is inside about 95 % of the time.

    Of 300 intervals from 60 problems; a percentile interval of that size covers 93 to 95 %, give or take 1.4 %
    (binomial). Counting 4 equal samples as 4 independent ones halves the width: 67 % are then inside.
    """
    rng = np.random.default_rng(0)
    inside = naive = 0
    for i in range(300):
        value = np.repeat(rng.random((60, 1)) < 0.3, 4, axis=1).astype(float)
        of_problems = estimate(ratio_of_sums(value.sum(1), np.full(60, 4.0)), 60, 200, seed=i)
        of_samples = estimate(mean(value.ravel()), 240, 200, seed=i)
        inside += of_problems.low <= 0.3 <= of_problems.high
        naive += of_samples.low <= 0.3 <= of_samples.high
    assert 0.88 < inside / 300 < 0.98
    assert naive / 300 < 0.78


def test_a_paired_difference_is_narrower():
    """b = a + 0.1 at every problem: resampled together the difference has no spread at all, apart it has."""
    a = np.random.default_rng(1).random(40)
    x, y = mean(a + 0.1), mean(a)
    one, other = Bootstrap(40, 300, seed=1), Bootstrap(40, 300, seed=2)
    for paired in (estimate(difference(x, y), 40, 300), (one.of(x) - one.of(y)).estimate()):
        assert (paired.value, paired.low, paired.high) == pytest.approx((0.1, 0.1, 0.1), abs=EXACT)
    apart = (one.of(x) - other.of(y)).estimate()
    assert apart.high - apart.low > 0.1


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


def resampled(values, n=50, spread=0.1, seed=0):
    """A mean over n problems in seeds with these values."""
    noise = np.random.default_rng(seed).normal(size=n) * spread
    noise -= noise.mean()
    return Bootstrap(n, 400).of(*(mean(v + noise) for v in values))


def test_of_one_seed_the_interval_is_over_problems_alone_and_every_statistic_sees_the_same_resamples():
    x = np.random.default_rng(3).random((2, 30))
    found = Bootstrap(30, 200, seed=5).estimates({"first": mean(x[0]), "second": mean(x[1])})
    (weights,) = Bootstrap(30, 200, seed=5).weights()
    for name, row in zip(found, x, strict=True):
        low, high = np.quantile(weights @ row / 30, [0.025, 0.975])
        assert found[name].to_json() == pytest.approx({"value": row.mean(), "low": low, "high": high}, abs=EXACT)
    alone = Bootstrap(30, 200, seed=5).of(mean(x[0])).estimate()
    assert (alone.low, alone.high, alone.seeds) == (found["first"].low, found["first"].high, (found["first"].value,))
    assert math.isnan(alone.t_low)
    assert math.isnan(alone.p)


def test_seeds_and_problems_are_crossed():
    """Resample r: problems drawn once for all seeds, then seeds; deviations between the drawn seeds are widened."""
    x = resampled([0.3, 0.5, 0.8])
    drawn = np.random.default_rng(7 + 1).multinomial(3, np.full(3, 1 / 3), size=400)
    expected = [of.mean() + widening(3) * (n @ of / 3 - of.mean()) for n, of in zip(drawn, x.samples.T, strict=True)]
    found = x.estimate(seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), abs=EXACT)
    assert (found.t_low, found.t_high, found.p) == t_test(x.values)


def test_seeds_and_problems_both_widen_the_interval():
    alone = resampled([0.5, 0.5, 0.5]).estimate()
    assert alone.value == pytest.approx(0.5, abs=EXACT)
    assert alone.seeds == pytest.approx([0.5] * 3, abs=EXACT)
    # Problems alone: 1.96 x 0.1/sqrt(50) = 0.028 to each side, from 400 resamples.
    assert 0.018 < alone.value - alone.low < 0.04
    apart = resampled([0.3, 0.5, 0.7]).estimate()
    assert apart.high - apart.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_few_seeds_covers_and_a_plain_bootstrap_does_not(seeds, monkeypatch):
    """Of 600 studies of normal seeds with mean 0: 95 % is 570 +- 4 x 5.3."""

    def covered() -> int:
        rng = np.random.default_rng(1)
        found = (rng.normal(size=seeds) for _ in range(600))
        estimates = (Resampled.of_seeds(v, resamples=500).estimate(seed=i) for i, v in enumerate(found))
        return sum(e.low <= 0 <= e.high for e in estimates)

    assert abs(covered() - 570) < 22
    monkeypatch.setattr(statistics, "widening", lambda seeds: 1.0)
    assert covered() < 530


def test_the_widening_is_students_and_goes_away():
    """t_0.975 of 2 degrees is 4.302653, z is 1.959964."""
    assert widening(3) == pytest.approx(4.302652729911275 / 1.959963984540054 * 1.5**0.5, rel=1e-9)
    assert widening(10_000) == pytest.approx(1, abs=1e-3)
    one = Resampled(np.array([0.5]), np.array([[0.4, 0.5, 0.6]])).estimate()  # one seed: problems alone
    assert (one.low, one.high) == pytest.approx((0.405, 0.595), abs=EXACT)


def test_intervals_are_cut_to_what_is_possible():
    free, cut = (Resampled.of_seeds([0.9, 1.0, 0.95], within, 400) for within in (ANY, PROBABILITY))
    one, other = free.estimate(), cut.estimate()
    assert min(one.high, one.t_high) > 1
    assert (other.high, other.t_high) == (1.0, 1.0)
    assert all(getattr(other, name) == getattr(one, name) for name in ("value", "low", "t_low", "p"))
    assert (cut - cut).within == (-1.0, 1.0)
    assert (0.5 * (cut + cut)).within == (0.0, 1.0)
    assert (free - free).within == ANY


def test_differences_of_seeds_are_paired():
    x, y = resampled([0.4, 0.6, 0.9]), resampled([0.3, 0.5, 0.8])
    found = (x - y).estimate()
    assert (found.low, found.high) == pytest.approx((0.1, 0.1), abs=EXACT)
    assert found.p < 1e-12
    assert x.estimate().p > 0.01


def test_a_seed_without_a_value_gives_none():
    found = resampled([0.4, np.nan, 0.5]).estimate().to_json()
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

"""Regret of imitation from samples: exactly what a threshold on the same knowledge earns more."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.evaluation import regret
from dsjax.evaluation.accounting import kept
from dsjax.evaluation.deciders import bins_of

EXACT = 1e-12


def drawn(rounds: int, problems: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """(P(STOP), verdicts) of problems of all difficulties and a decider that half sees what is right."""
    rng = np.random.default_rng(rounds)
    right = rng.random((problems, rounds)) < rng.random((problems, 1))
    return 0.3 * right + 0.7 * rng.random((problems, rounds)), right


def of_all(statistic, problems: int) -> float:
    return float(statistic(np.ones((1, problems)))[0])


def by_hand(stop: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(STOP) f[N, T] of the imitator and of the decider that is given the regret, one bin after the other."""
    bins, (N, T) = bins_of(stop), stop.shape
    imitator, alive, seen = np.ones((N, T)), np.ones(N), []
    for t in range(T - 1):
        seen.append(alive)
        for x in set(bins[:, t]):
            here = bins[:, t] == x
            imitator[here, t] = np.average(right[here, t], weights=alive[here])
        alive = alive * (1 - imitator[:, t])
    best = imitator.copy()
    for t in reversed(range(T - 1)):
        later = kept(right[:, t + 1 :], best[:, t + 1 :]).right
        for x in set(bins[:, t]):
            here = bins[:, t] == x
            best[here, t] = imitator[here, t] >= np.average(later[here], weights=seen[t][here])
    return imitator, best


@pytest.mark.parametrize("rounds", [2, 4])
def test_it_is_the_accuracy_that_thresholds_earn_more_than_imitation(rounds):
    stop, right = drawn(rounds)
    imitator, best = (kept(right, x).right.mean() for x in by_hand(stop, right))
    found = of_all(regret.of_samples(stop, right), len(right))
    assert found == pytest.approx(best - imitator, abs=EXACT)
    assert found > 0.01


def test_a_problem_drawn_twice_counts_twice():
    stop, right = drawn(3, problems=30)
    weights = np.random.default_rng(0).integers(0, 3, (4, 30))
    found = regret.of_samples(stop, right)(weights.astype(float))
    for row, value in zip(weights, found, strict=True):
        again = np.repeat(np.arange(30), row)
        assert value == pytest.approx(of_all(regret.of_samples(stop[again], right[again]), len(again)), abs=EXACT)


def test_who_knows_everything_or_nothing_or_has_one_round_has_no_regret():
    _, right = drawn(3)
    blind = np.full(right.shape, 0.5)
    assert of_all(regret.of_samples(right.astype(float), right), len(right)) == pytest.approx(0, abs=EXACT)
    assert of_all(regret.of_samples(blind[:, :1], right[:, :1]), len(right)) == 0
    # One kind of problem: going on is worth what stopping is, and a blind decider has nothing to regret.
    alike = np.array([[True, False], [True, True], [False, True], [False, False]])
    assert of_all(regret.of_samples(blind[:4, :2], alike), 4) == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize("rounds", [2, 3])
def test_labels_of_value_keep_what_is_worth_more_than_the_other_answers(rounds):
    """Against loops: V of a bin is what the other answers bring, kept by the same rule, less the cost."""
    rng = np.random.default_rng(rounds)
    n, G, cost = 40, 4, 0.05
    right = (rng.random((n, G)) < rng.random((n, 1))).astype(np.float32)
    stop = (0.2 * right + 0.8 * rng.random((n, G))).astype(np.float32)
    bins = bins_of(stop)

    def mean_of_bin(x):
        return np.array([[x[bins == bins[i, j]].mean() for j in range(G)] for i in range(n)])

    def others(x):
        return np.array([[np.delete(x[i], j).mean() for j in range(G)] for i in range(n)]) - cost

    q, going = mean_of_bin(right), others(right)
    for _ in range(rounds - 2):
        going = others(np.where(q >= mean_of_bin(going), right, going))
    expected = q >= mean_of_bin(going)
    found = np.asarray(regret.keeps(jnp.asarray(stop), jnp.asarray(right), rounds, cost))
    np.testing.assert_array_equal(found, expected)
    assert 0 < (expected != right).mean() < 1  # they are no labels of correctness

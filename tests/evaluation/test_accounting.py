"""Accuracy of laws and of drawn samples against enumeration, its limits and edges, the Shapley split, the swap."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proofs_check
from dsjax.errors import InputError
from dsjax.evaluation import accounting
from dsjax.evaluation.accounting import cross_swap, final_accuracy, kept, limit_parts, log_odds, shapley
from dsjax.study.measures import Evaluated, Measures
from proofs_check import registry
from tests import oracle

EXACT = 1e-13  # sums of at most 2^5 products of at most 5 factors, all of size <= 1 (rounds: <= 5)
P = np.array([0.3, 0.9, 0.5, 0.05])
A = np.array([0.8, 0.2, 0.5, 1.0])
B = np.array([0.1, 0.7, 0.5, 0.0])


def toy(p: float, a: float, b: float, rounds: int) -> list[oracle.Trajectory]:
    """One prompt, answers 0 (wrong) and 1 (right), written out as trajectories."""
    return oracle.enumerate_toy(
        oracle.Toy(
            prompt_law=(1.0,),
            reward={(0, (0,)): 0.0, (0, (1,)): 1.0},
            cost=0.0,
            vocabulary=2,
            length=1,
            rounds=rounds,
            history="none",
            sample={(0, (), ()): np.array([1 - p, p])},
            decision={(0, (), (0,)): np.array([b, 1 - b]), (0, (), (1,)): np.array([a, 1 - a])},
        )
    )


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_accuracy_and_rounds_match_enumeration(rounds):
    accuracy, wrong, used = kept(P, A, B, rounds)
    np.testing.assert_allclose(accuracy + wrong, 1.0, rtol=0, atol=1e-15)
    for i, (p, a, b) in enumerate(zip(P, A, B, strict=True)):
        brute = toy(p, a, b, rounds)
        # At most 62 trajectories of 9 factors: 1e-14.
        assert float(accuracy[i]) == pytest.approx(oracle.expected_return(brute), abs=1e-14)
        assert float(used[i]) == pytest.approx(oracle.mean(brute, lambda w: len(w.answers)), abs=1e-14)


def of_decisions(right, stop) -> tuple[np.ndarray, np.ndarray]:
    """(accuracy, rounds) of each problem, over all 2^T sequences of decisions; the last one has no effect."""
    n, T = right.shape
    accuracy, rounds = np.zeros(n), np.zeros(n)
    for i in range(n):
        for decisions in itertools.product((True, False), repeat=T):
            probability = np.prod([stop[i, t] if d else 1 - stop[i, t] for t, d in enumerate(decisions)])
            last = decisions.index(True) if True in decisions else T - 1
            accuracy[i] += probability * right[i, last]
            rounds[i] += probability * (last + 1)
    return accuracy, rounds


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_accuracy_and_rounds_of_drawn_samples_match_enumeration(rounds):
    rng = np.random.default_rng(rounds)
    right, stop = rng.random((20, rounds)) < 0.5, rng.random((20, rounds))
    stop[0], stop[1] = 0.0, 1.0  # never stops, always stops
    before = stop.copy()
    found = kept(right, stop)
    for got, expected in zip((found.right, found.rounds), of_decisions(right, stop), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=EXACT)
    np.testing.assert_array_equal(stop, before)  # arguments are left alone
    assert (found.right[0], found.right[1]) == (right[0, -1], right[1, 0])


def test_drawn_samples_of_one_law_give_its_closed_form():
    """All samples of T = 3 rounds at p = 1/2, a = 0.8, b = 0.3, each once."""
    right = np.array(list(itertools.product((True, False), repeat=3)))
    for drawn, exact in zip(kept(right, np.where(right, 0.8, 0.3)), kept(0.5, 0.8, 0.3, 3), strict=True):
        assert drawn.mean() == pytest.approx(exact, abs=EXACT)


@pytest.mark.parametrize("rounds", [1, 2, 7, 40])
def test_accuracy_satisfies_its_recursion(rounds):
    """acc_1 = p, acc_{T+1} = p a + rho acc_T: one round, then the rest of the episode. Closed form too."""
    rho = 1 - P * A - (1 - P) * B
    accuracy = P
    for _ in range(rounds - 1):
        accuracy = P * A + rho * accuracy
    closed = P * A * (1 - rho ** (rounds - 1)) / (1 - rho) + rho ** (rounds - 1) * P
    got = final_accuracy(P, A, B, rounds)
    np.testing.assert_allclose(got, accuracy, rtol=0, atol=rounds * 1e-15)
    np.testing.assert_allclose(got, closed, rtol=0, atol=(rounds + 20) * 1e-15)  # 1/(1 - rho) is 20 at most here
    if rounds > 1:
        assert np.abs(np.asarray(got) - closed + 0.01 * P * A).max() > 1e-3  # control


@settings(deadline=None, max_examples=12, derandomize=True, database=None)
@given(*[st.floats(0.05, 0.95) for _ in range(3)])
def test_log_odds_add_up_in_the_limit(p, a, b):
    """rho <= 0.95, so rho^1000 < 1e-22: the horizon is out of sight."""
    found, identity = kept(p, a, b, 1000), sum(limit_parts(p, a, b))
    limit, gain = log_odds(found.right, found.wrong), final_accuracy(p, a, b, 3) - p
    # 1000 additions: 1e-13 on the accuracy, 1/(acc (1 - acc)) <= 400 on its logit.
    assert float(limit) == pytest.approx(float(identity), abs=1e-10)
    assert float(identity) == pytest.approx(np.log(p / (1 - p) * a / b), abs=1e-13)
    # A gain at any horizon exactly if a > b.
    if abs(a - b) > 1e-9:  # the gain is then 5e-11 at least, far above rounding
        assert np.sign(float(gain)) == np.sign(a - b)


def test_edges():
    """Never stops (rho = 1), cannot tell answers apart (a = b), hopeless or perfect sampler, perfect decider."""
    for rounds in (1, 2, 6):
        same = np.array([0.0, 0.3, 1.0])
        p = np.array([0.2, 0.5, 0.9])
        np.testing.assert_allclose(final_accuracy(p, same, same, rounds), p, rtol=0, atol=1e-15)
        assert float(final_accuracy(0.37, 0.0, 0.0, rounds)) == 0.37
        assert float(kept(0.37, 0.0, 0.0, rounds).rounds) == rounds
        assert float(final_accuracy(0.0, 0.4, 0.2, rounds)) == 0
        assert float(final_accuracy(1.0, 0.4, 0.2, rounds)) == pytest.approx(1.0, abs=1e-15)
        assert float(final_accuracy(0.3, 1.0, 0.0, rounds)) == pytest.approx(1 - 0.7**rounds, abs=1e-15)
        assert float(kept(0.3, 1.0, 1.0, rounds).rounds) == 1
    assert limit_parts(0.3, 0.6, 0.6) == (pytest.approx(np.log(3 / 7), abs=1e-15), 0.0)
    assert (log_odds(0.0, 1.0), log_odds(1.0, 0.0)) == (-np.inf, np.inf)
    assert limit_parts(0.3, 0.5, 0.0).decider == np.inf  # never keeps a wrong answer


def test_the_horizon_is_checked():
    with pytest.raises(InputError, match="rounds: received 0"):
        final_accuracy(0.5, 0.5, 0.5, 0)


def test_scalars_arrays_and_gradients(x64):
    table = final_accuracy(P[:, None], A[None, :], 0.2, 3)
    assert table.shape == (4, 4)
    assert float(table[1, 2]) == pytest.approx(float(final_accuracy(P[1], A[2], 0.2, 3)), abs=1e-15)
    # At T = 2: d acc / d a = p (1 - p), d acc / d b = -p (1 - p).
    da, db = jax.grad(lambda a, b: final_accuracy(0.3, a, b, 2), argnums=(0, 1))(0.7, 0.2)
    assert float(da) == pytest.approx(0.3 * 0.7, abs=1e-15)
    assert float(db) == pytest.approx(-0.3 * 0.7, abs=1e-15)
    assert final_accuracy(jnp.float32(0.5), 0.5, 0.5, 2).dtype == jnp.float64
    for ours, of_jax in zip(kept(P, A, B, 4), kept(jnp.asarray(P), A, B, 4), strict=True):
        np.testing.assert_allclose(of_jax, ours, rtol=0, atol=1e-15)


def accuracy_of(sampler: float, decider: tuple[float, float], rounds: int = 3) -> float:
    return float(final_accuracy(sampler, *decider, rounds))


BASE, NEW = (0.3, (0.6, 0.5)), (0.6, (0.9, 0.2))


def test_shapley_sums_to_the_total_and_is_symmetric():
    split = shapley(accuracy_of, BASE, NEW)
    assert split.sampler + split.decider == pytest.approx(accuracy_of(*NEW) - accuracy_of(*BASE), abs=1e-15)
    swapped = shapley(lambda d, s: accuracy_of(s, d), (BASE[1], BASE[0]), (NEW[1], NEW[0]))
    assert (swapped.decider, swapped.sampler) == pytest.approx((split.sampler, split.decider), abs=1e-15)
    back = shapley(accuracy_of, NEW, BASE)
    assert (back.sampler, back.decider) == pytest.approx((-split.sampler, -split.decider), abs=1e-15)
    # The order of swapping matters here, so half of both orders is not one of them.
    first = accuracy_of(NEW[0], BASE[1]) - accuracy_of(*BASE)
    last = accuracy_of(*NEW) - accuracy_of(BASE[0], NEW[1])
    assert min(first, last) < split.sampler < max(first, last)


def test_shapley_of_an_unchanged_component_is_zero():
    assert shapley(accuracy_of, BASE, (BASE[0], NEW[1])).sampler == 0
    assert shapley(accuracy_of, BASE, (NEW[0], BASE[1])).decider == 0


def test_shapley_of_a_sum_is_its_terms():
    split = shapley(lambda s, d: 3 * s + d, (1.0, 10.0), (2.0, 30.0))
    assert (split.sampler, split.decider) == (3, 20)


def test_prompts_that_differ_do_not_commute_with_averages():
    """Counterexample that stays: two prompts, p = 0.9 and 0.1, one decider (a = 0.8, b = 0.2), T -> infinity.

    Odds multiply by 4 on each: accuracies 36/37 and 4/13, average 0.6403. The average p = 1/2 would give 4/5.
    """
    p = np.array([0.9, 0.1])
    each = final_accuracy(p, 0.8, 0.2, 500)
    np.testing.assert_allclose(each, [36 / 37, 4 / 13], rtol=0, atol=1e-12)
    of_average = float(final_accuracy(p.mean(), 0.8, 0.2, 500))
    assert of_average == pytest.approx(0.8, abs=1e-12)
    assert of_average - float(each.mean()) > 0.15


def test_the_swap_has_each_samplers_answers_under_each_deciders_verdicts():
    rng = np.random.default_rng(0)
    names = ("base", "arm", "other")
    right = {name: rng.random((40, 3)) < 0.5 for name in names}
    log_stop = {(s, d): np.log(rng.random((40, 3))).astype(np.float32) for s in names for d in names}
    matrix = cross_swap(right, log_stop, 50, seed=3)
    assert {s: [*row] for s, row in matrix.items()} == {name: [*names] for name in names}
    for (s, d), x in log_stop.items():
        accuracy = of_decisions(right[s], np.exp(x.astype(float)))[0].mean()
        assert matrix[s][d].value == pytest.approx(accuracy, abs=EXACT)
        assert matrix[s][d].low < matrix[s][d].value < matrix[s][d].high
    assert len({cell.value for row in matrix.values() for cell in row.values()}) == 9


FAULTS = {  # wrong variants of what the accounting is made of
    "kept": lambda right: lambda p, a, b=None, rounds=None: right(p, 0.9 * a, b, rounds),
    "log_odds": lambda right: lambda good, bad: right(good, bad) + 0.1 * right(good, bad) ** 2,
    "measures": lambda right: (
        lambda *law, **options: {
            name: lambda weights, f=f: 1.1 * f(weights) for name, f in right(*law, **options).items()
        }
    ),
    "limit_parts": lambda right: lambda p, a, b: right(p, b, a),
    "shapley": lambda right: (
        lambda value, base, new: accounting.Parts(
            value(new[0], base[1]) - value(*base), value(base[0], new[1]) - value(*base)
        )
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_t10_checks_the_functions_that_the_study_reports(name, monkeypatch):
    """A fault in any of them changes what a study says, and T10 does not hold."""
    rng = np.random.default_rng(0)
    right, log_stop = rng.random((2, 30, 3)) < 0.5, np.log(rng.random((2, 2, 30, 3)))
    seed = Evaluated(("base", "arm"), right, np.empty(0), log_stop[0], log_stop)

    def reported():
        found = Measures([seed], "none", 0)
        parts = [(scale, part) for scale in ("log_odds", "accuracy", "limit") for part in ("sampler", "decider")]
        return [found.part(scale, part, "arm", "base").values[0] for scale, part in parts]

    theorem = registry.THEOREMS["T10"]
    monkeypatch.setitem(registry.THEOREMS, "T10", replace(theorem, shapes=theorem.shapes[:1]))
    before = reported()
    monkeypatch.setattr(accounting, name, FAULTS[name](getattr(accounting, name)))
    assert np.abs(np.subtract(reported(), before)).max() > 1e-3
    assert not proofs_check.check("T10", instances=2).ok

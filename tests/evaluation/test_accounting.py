"""The accounting identity against enumeration, its limits and edges, and the Shapley split."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsjax.errors import InputError
from dsjax.evaluation.accounting import final_accuracy, limit_log_odds, logit, mean_rounds, shapley
from tests import oracle

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
def test_accuracy_and_rounds_match_enumeration(x64, rounds):
    accuracy, used = final_accuracy(P, A, B, rounds), mean_rounds(P, A, B, rounds)
    for i, (p, a, b) in enumerate(zip(P, A, B, strict=True)):
        brute = toy(p, a, b, rounds)
        # At most 62 trajectories of 9 factors: 1e-14.
        assert float(accuracy[i]) == pytest.approx(oracle.expected_return(brute), abs=1e-14)
        assert float(used[i]) == pytest.approx(oracle.mean(brute, lambda w: len(w.answers)), abs=1e-14)


@pytest.mark.parametrize("rounds", [1, 2, 7, 40])
def test_accuracy_satisfies_its_recursion(x64, rounds):
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
    with jax.enable_x64(True):
        limit, identity = logit(final_accuracy(p, a, b, 1000)), limit_log_odds(p, a, b)
        gain = final_accuracy(p, a, b, 3) - p
    # 1000 additions: 1e-13 on the accuracy, 1/(acc (1 - acc)) <= 400 on its logit.
    assert float(limit) == pytest.approx(float(identity), abs=1e-10)
    assert float(identity) == pytest.approx(np.log(p / (1 - p) * a / b), abs=1e-13)
    # A gain at any horizon exactly if a > b.
    if abs(a - b) > 1e-9:  # the gain is then 5e-11 at least, far above rounding
        assert np.sign(float(gain)) == np.sign(a - b)


def test_edges(x64):
    """Never stops (rho = 1), cannot tell answers apart (a = b), hopeless or perfect sampler, perfect decider."""
    for rounds in (1, 2, 6):
        same = np.array([0.0, 0.3, 1.0])
        p = np.array([0.2, 0.5, 0.9])
        np.testing.assert_allclose(final_accuracy(p, same, same, rounds), p, rtol=0, atol=1e-15)
        assert float(final_accuracy(0.37, 0.0, 0.0, rounds)) == 0.37
        assert float(mean_rounds(0.37, 0.0, 0.0, rounds)) == rounds
        assert float(final_accuracy(0.0, 0.4, 0.2, rounds)) == 0
        assert float(final_accuracy(1.0, 0.4, 0.2, rounds)) == pytest.approx(1.0, abs=1e-15)
        assert float(final_accuracy(0.3, 1.0, 0.0, rounds)) == pytest.approx(1 - 0.7**rounds, abs=1e-15)
        assert float(mean_rounds(0.3, 1.0, 1.0, rounds)) == 1
    assert float(limit_log_odds(0.3, 0.6, 0.6)) == pytest.approx(float(logit(0.3)), abs=1e-15)
    assert float(logit(0.0)) == -np.inf
    assert float(logit(1.0)) == np.inf
    assert float(limit_log_odds(0.3, 0.5, 0.0)) == np.inf  # never keeps a wrong answer


def test_a_worse_decider_than_chance_loses_accuracy(x64):
    assert float(final_accuracy(0.5, 0.2, 0.8, 4)) < 0.5 < float(final_accuracy(0.5, 0.8, 0.2, 4))


@pytest.mark.parametrize("function", [final_accuracy, mean_rounds])
def test_the_horizon_is_checked(function):
    with pytest.raises(InputError, match="rounds: received 0"):
        function(0.5, 0.5, 0.5, 0)


def test_scalars_arrays_and_gradients(x64):
    table = final_accuracy(P[:, None], A[None, :], 0.2, 3)
    assert table.shape == (4, 4)
    assert float(table[1, 2]) == pytest.approx(float(final_accuracy(P[1], A[2], 0.2, 3)), abs=1e-15)
    # At T = 2: d acc / d a = p (1 - p), d acc / d b = -p (1 - p).
    da, db = jax.grad(lambda a, b: final_accuracy(0.3, a, b, 2), argnums=(0, 1))(0.7, 0.2)
    assert float(da) == pytest.approx(0.3 * 0.7, abs=1e-15)
    assert float(db) == pytest.approx(-0.3 * 0.7, abs=1e-15)
    assert final_accuracy(jnp.float32(0.5), 0.5, 0.5, 2).dtype == jnp.float64


def accuracy_of(sampler: float, decider: tuple[float, float], rounds: int = 3) -> float:
    return float(final_accuracy(sampler, *decider, rounds))


BASE, NEW = (0.3, (0.6, 0.5)), (0.6, (0.9, 0.2))


def test_shapley_sums_to_the_total_and_is_symmetric(x64):
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


def test_shapley_of_an_unchanged_component_is_zero(x64):
    assert shapley(accuracy_of, BASE, (BASE[0], NEW[1])).sampler == 0
    assert shapley(accuracy_of, BASE, (NEW[0], BASE[1])).decider == 0


def test_shapley_of_a_sum_is_its_terms():
    split = shapley(lambda s, d: 3 * s + d, (1.0, 10.0), (2.0, 30.0))
    assert (split.sampler, split.decider) == (3, 20)


def test_shapley_of_log_odds_is_the_identity_in_the_limit(x64):
    """Change of logit(p) to the sampler, change of log(a/b) to the decider; at T = 3 they still differ."""

    def log_odds(rounds):
        return shapley(lambda s, d: float(logit(final_accuracy(s, d[0], d[1], rounds))), BASE, NEW)

    sampler = float(logit(NEW[0]) - logit(BASE[0]))
    decider = np.log(0.9 / 0.2) - np.log(0.6 / 0.5)
    limit = log_odds(400)
    assert limit.sampler == pytest.approx(sampler, abs=1e-12)
    assert limit.decider == pytest.approx(decider, abs=1e-12)
    assert abs(log_odds(3).decider - decider) > 1e-2


def test_prompts_that_differ_do_not_commute_with_averages(x64):
    """Counterexample that stays: two prompts, p = 0.9 and 0.1, one decider (a = 0.8, b = 0.2), T -> infinity.

    Odds multiply by 4 on each: accuracies 36/37 and 4/13, average 0.6403. The average p = 1/2 would give 4/5.
    """
    p = np.array([0.9, 0.1])
    each = final_accuracy(p, 0.8, 0.2, 500)
    np.testing.assert_allclose(each, [36 / 37, 4 / 13], rtol=0, atol=1e-12)
    of_average = float(final_accuracy(p.mean(), 0.8, 0.2, 500))
    assert of_average == pytest.approx(0.8, abs=1e-12)
    assert of_average - float(each.mean()) > 0.15
    # And a decider that only knows which prompt is hard (a = b on each) gains nothing, although pooled over
    # prompts it stops on 82% of the right and 18% of the wrong answers: the pooled identity claims a gain.
    knows_prompts = np.array([0.9, 0.1])
    np.testing.assert_allclose(final_accuracy(p, knows_prompts, knows_prompts, 5), p, rtol=0, atol=1e-14)
    a = (p * knows_prompts).sum() / p.sum()
    b = ((1 - p) * knows_prompts).sum() / (1 - p).sum()
    assert (a, b) == pytest.approx((0.82, 0.18))
    assert float(final_accuracy(p.mean(), a, b, 5)) - p.mean() > 0.25

"""T23: the numbers of its text, and what it does not cover."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import reinforce
from dsjax.trajectories import STOP
from proofs_check.theorems.t23_success_rates.numeric import difference, factors, lengths, of_lengths
from tests.proofs_check.test_t12_grpo import line

pytestmark = pytest.mark.usefixtures("x64")


def by_hand(p: float, a: float, b: float, length: int, size: int) -> tuple[float, float, float]:
    """(factor at right, at wrong answers, their difference as stated) of a decider that sees right and wrong alone."""
    first = p * a + (1 - p) * b
    stops, returns = jnp.asarray([[first, 1 - first]]), jnp.asarray([[p * a / first, p]])
    n = lengths(2, length)
    right, wrong = factors(jnp.asarray([p]), of_lengths(stops, returns, n, size))
    return float(right[0]), float(wrong[0]), float(difference(jnp.asarray([a]), jnp.asarray([b]), stops, n, size)[0])


@pytest.mark.parametrize(("length", "size", "right", "wrong"), [(5, 2, 0.544, 0.574), (50, 4, 0.791, 0.813)])
def test_factors_of_opo(length, size, right, wrong):
    found = by_hand(0.5, 0.7, 0.5, length, size)
    assert found[:2] == pytest.approx((right, wrong), abs=5e-4)
    assert found[2] == pytest.approx(found[1] - found[0], abs=1e-14)
    if size == 2:
        assert found[2] == pytest.approx((0.7 - 0.5) * length / (2 * (3 * length + 2)), abs=1e-14)
    # The other way round for a decider that prefers wrong answers; none for one that cannot tell.
    right, wrong, _ = by_hand(0.5, 0.5, 0.7, length, size)
    assert right > wrong
    right, wrong, _ = by_hand(0.5, 0.6, 0.6, length, size)
    assert right == pytest.approx(wrong, abs=1e-14)


def test_the_bias_of_opo_is_of_order_one_over_the_group():
    missing = [1 - by_hand(0.5, 0.7, 0.5, 5, size)[0] for size in (4, 8)]
    apart = [by_hand(0.5, 0.7, 0.5, 5, size)[2] for size in (4, 8)]
    assert missing[1] == pytest.approx(missing[0] / 2, rel=0.05)
    assert apart[1] == pytest.approx(apart[0] / 2, rel=0.2)


def test_graded_verifier_has_no_factor_and_can_turn_the_decider():
    """G = 2, A = (R - m)/m: a return of 0.1 loses to 1 by 9/11 and gains 1 on 0; its mean is positive below E[R]."""
    law, grades = [0.3, 0.5, 0.2], (0.0, 0.1, 1.0)
    process, policy, params = line(law, grades)
    over_mean = partial(reinforce, baseline="maxrl", group_size=2, epsilon=0.0, reward_support=grades)

    @jax.jit
    def on_stop(params):
        traj = process.enumerate_trajectories(policy, params)
        both = (component_gradients(policy, params, traj, f).decision["decision"] for f in (reinforce, over_mean))
        return [g[0, 0, :, STOP] for g in both]

    plain, found = on_stop(params)
    # The decider stops at all answers alike: R has the law of one answer, in either round.
    A = [-(law[1] + law[2]), law[0] * 1 - law[2] * 9 / 11, law[0] * 1 + law[1] * 9 / 11]
    mean = sum(p * x for p, x in zip(law, A, strict=True))
    J = sum(p * r for p, r in zip(law, grades, strict=True))
    for i in range(3):
        assert float(plain[i]) == pytest.approx(law[i] / 4 * (grades[i] - J), abs=1e-14)
        assert float(found[i]) == pytest.approx(law[i] / 4 * (A[i] - mean), abs=1e-14)
    assert plain[1] < 0 < found[1]

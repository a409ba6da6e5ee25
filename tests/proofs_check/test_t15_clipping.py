"""T15 in hand-computed values, with the counterexamples to its first wording."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.objectives.ratios import ratio
from dsjax.trajectories import Trajectories
from proofs_check.theorems.t15_clipping import numeric as t15

pytestmark = pytest.mark.usefixtures("x64")


def moved(logits, step, drawn):
    """log rho of the drawn symbol."""
    logits = jnp.asarray(logits)
    new = logits + jnp.asarray(step)
    return float(jax.nn.log_softmax(new)[drawn] - jax.nn.log_softmax(logits)[drawn])


def gradient(logits, drawn, size):
    """size (e_v - pi)."""
    logits = jnp.asarray(logits)
    return size * (jax.nn.one_hot(drawn, logits.size) - jax.nn.softmax(logits))


PEAKED = [math.log(0.99), math.log(0.01)]  # a decision, nearly certain
FLAT = [0.0] * 4  # a token


@pytest.mark.parametrize("size", [0.2, -0.2, 2.0, -2.0])
def test_a_peaked_decision_moves_less_than_a_flat_token(size):
    """The first wording compares a binary with a V-way choice; what counts is the probability of what was drawn."""
    for step_d, step_t in (
        ([size, -size], [size, -size, -size, -size]),
        (gradient(PEAKED, 0, size), gradient(FLAT, 0, size)),
    ):
        assert abs(moved(PEAKED, step_d, 0)) < abs(moved(FLAT, step_t, 0)) / 5
    # The other way round as worded: an undecided decision against a peaked token.
    fair, token = [0.0, 0.0], [math.log(0.97), *[math.log(0.01)] * 3]
    assert abs(moved(fair, gradient(fair, 0, size), 0)) > 5 * abs(moved(token, gradient(token, 0, size), 0))


@pytest.mark.parametrize("size", [0.5, -0.5])
def test_the_number_of_choices_matters_by_a_factor_of_two_at_most(size):
    """Same probability, gradient step: a token's logit gap grows V/(2(V-1)) times as much as that of a decision."""
    for V in (2, 3, 10, 1000):
        logits = [math.log(0.5), *[math.log(0.5 / (V - 1))] * (V - 1)]
        far = moved(logits, gradient(logits, 0, size), 0)
        same = float(t15.decision_log_ratio(jnp.asarray(0.5), jnp.asarray(size * V / (2 * (V - 1)))))
        assert far == pytest.approx(same, rel=1e-12)
    # A step in sup norm does not see V at all.
    wide = [math.log(0.5), *[math.log(0.5 / 9)] * 9]
    assert moved(wide, [size, *[-size] * 9], 0) == pytest.approx(moved([0.0, 0.0], [size, -size], 0), rel=1e-12)


def test_the_upper_bound_is_not_one_for_the_way_down():
    low, high = (float(z) for z in t15.reach(jnp.asarray(0.1), jnp.asarray(2.0)))
    assert high == pytest.approx(-math.log(1 - 0.1 * (1 - math.exp(-2))), rel=1e-12)
    assert low == pytest.approx(-math.log(1 + 0.1 * (math.exp(2) - 1)), rel=1e-12)
    assert high < 0.1 * 2.0 < -low < 0.1 * (math.exp(2) - 1)


def test_a_likely_choice_is_never_clipped_from_above():
    x = jnp.asarray([1 / 6 - 1e-9, 1 / 6 + 1e-9])
    never, late = t15.threshold(x, jnp.ones(2)).tolist()
    assert math.isinf(never)
    assert math.isfinite(late)
    assert np.all(np.isfinite(t15.threshold(x, -jnp.ones(2))))
    # pi = .5, eps = .2: 1/rho = 1 - (1 - e^-g)/2 = 1/1.2.
    assert float(t15.threshold(jnp.asarray(0.5), jnp.asarray(1.0))) == pytest.approx(-math.log(1 - 1 / 3), rel=1e-12)


def test_only_the_geometric_mean_dilutes_the_decision():
    """N = L + 1 tokens of which the decision alone moved: mean log-ratio / N; the product keeps all of it."""
    L, far = 7, 0.5
    mask = jnp.arange(L + 1) == L
    traj = Trajectories.create(
        tokens=jnp.zeros((1, L + 1), jnp.int32),
        prompt=jnp.zeros((1, 1), jnp.int32),
        sample_mask=~mask[None],
        decision_mask=mask[None],
        round=jnp.zeros((1, L + 1), jnp.int32),
        reward=jnp.ones(1),
        weight=jnp.ones(1),
        group=jnp.zeros(1, jnp.int32),
        old_logp=jnp.full((1, L + 1), -1.0),
    )
    logp = jnp.where(mask, -1.0 + far, -1.0)[None]
    found = {kind: jnp.log(ratio(logp, traj, kind))[0] for kind in ("token", "sequence", "geometric")}
    np.testing.assert_allclose(found["token"], jnp.where(mask, far, 0.0), atol=1e-15)
    np.testing.assert_allclose(found["sequence"], far, atol=1e-14)
    np.testing.assert_allclose(found["geometric"], far / (L + 1), atol=1e-14)

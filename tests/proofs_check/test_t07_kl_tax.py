"""T7 on one process that can be worked out by hand, and where its boundary does not exist."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import reinforce
from dsjax.policies import SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check.theorems.t07_kl_tax.numeric import tilted, with_own_token_kl, with_trajectory_kl

pytestmark = pytest.mark.usefixtures("x64")

P, Q = 0.6, 0.4  # P(right) under the policy and its reference
K = P * np.log(P / Q) + (1 - P) * np.log((1 - P) / (1 - Q))  # KL of one more answer
WRONG, RIGHT, STOP = 0, 1, 0


@partial(jax.jit, static_argnames="objective")
def gradient(objective, beta, cost, stop_reference):
    """On the STOP logits [wrong, right]; two rounds, one token, P(STOP) = 1/2 for either answer."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.asarray([[0.0, 1.0]]), vocabulary=2, length=1, rounds=2, cost=cost
    )
    policy = SaturatedPolicy.for_process(process)

    def params(right, stop):
        return {
            "sample": jnp.log(jnp.stack([1 - right, right]))[None, None, None],
            "decision": jnp.tile(jnp.log(jnp.stack([stop, 1 - stop]))[None, None, None], (1, 1, 2, 1)),
        }

    own = params(jnp.asarray(P), jnp.asarray(0.5))
    traj = process.enumerate_trajectories(policy, own)
    traj = traj.replace(ref_logp=log_probs(policy, params(jnp.asarray(Q), stop_reference), traj))
    return component_gradients(policy, own, traj, objective(beta)).decision["decision"][0, 0, :, STOP]


def push(objective, beta, *, cost=0.05, stop_reference=0.5):
    return np.asarray(gradient(objective, *(jnp.asarray(x) for x in (beta, cost, stop_reference))))


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.7, 6.9, 50.0])
def test_by_hand(beta):
    visits = 0.25 * np.array([1 - P, P])
    expected = visits * (np.array([0.0, 1.0]) - P + 0.05 + beta * K)
    np.testing.assert_allclose(push(with_trajectory_kl, beta), expected, rtol=1e-13, atol=1e-15)


def test_turns_at_the_wrong_answer_only_and_with_the_trajectory_kl_only():
    turn = (P - 0.05) / K
    assert turn == pytest.approx(6.782, abs=1e-3)
    below, above = push(with_trajectory_kl, 0.999 * turn), push(with_trajectory_kl, 1.001 * turn)
    assert below[WRONG] < 0 < above[WRONG]
    assert min(below[RIGHT], above[RIGHT]) > 0
    # The decision is at its reference, so its own penalty has no gradient, whatever beta.
    np.testing.assert_allclose(push(with_own_token_kl, 1e3), push(with_trajectory_kl, 0.0), rtol=1e-13, atol=1e-13)


def test_own_token_kl_is_the_option_of_reinforce():
    first = push(with_own_token_kl, 0.7, stop_reference=0.2)
    second = push(lambda _: partial(reinforce, token_kl=0.7), 0.7, stop_reference=0.2)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-16)


def test_cost_above_the_value_leaves_nothing_to_turn():
    """V - c < 0: another attempt is not worth its price, and reward alone already stops at the wrong answer."""
    for beta in (0.0, 1.0, 100.0):
        assert push(with_trajectory_kl, beta, cost=0.7)[WRONG] > 0


def test_a_decider_that_stops_more_than_its_reference_can_outweigh_the_tax():
    """Log-odds of STOP above the reference by more than K: the log-ratio term wins, and no beta turns the push."""
    stop_reference = 0.4
    assert np.log(0.5 / 0.5) - np.log(stop_reference / (1 - stop_reference)) > K
    for beta in (0.0, 1.0, 100.0):
        assert push(with_trajectory_kl, beta, stop_reference=stop_reference)[WRONG] < 0


def test_tilt_has_the_same_kl_in_every_context():
    policy = 2 * jax.random.normal(jax.random.key(0), (2, 5, 3))
    reference = jax.jit(tilted)(jax.random.normal(jax.random.key(1), policy.shape), policy, 0.2)
    log_pi, log_ref = jax.nn.log_softmax(policy), jax.nn.log_softmax(reference)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_pi) * (log_pi - log_ref), -1), 0.2, rtol=0, atol=1e-13)

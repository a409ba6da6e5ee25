"""T13: where its signs are strict although T8 is silent, and where they flip."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import grpo, reinforce
from dsjax.policies import SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP
from proofs_check.theorems.t13_length_normalised.numeric import by_length

pytestmark = pytest.mark.usefixtures("x64")

LENGTH, ROUNDS = 2, 3


@partial(jax.jit, static_argnames="objective")
def pushes(table, baseline, objective=by_length):
    """f[A] gradient on the STOP logits in round 1 over rho pi_stop pi_res; uniform sampler, even decider."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=table[None], vocabulary=2, length=LENGTH, rounds=ROUNDS, history="full"
    )
    policy = SaturatedPolicy.for_process(process)
    params = {name: jnp.zeros(shape) for name, shape in policy.shapes().items()}
    traj = process.enumerate_trajectories(policy, params)
    traj = traj.replace(reward=traj.reward - baseline)
    gradient = component_gradients(policy, params, traj, objective).decision["decision"][0, 0, :, STOP]
    return gradient / (0.25 * 0.25)


N = (3, 6, 8)  # tokens of a trajectory that stops in round 1, 2, 3: the last stop is forced
MEAN_INVERSE = 0.5 / N[1] + 0.5 / N[2]  # E[1/n_tau | RESAMPLE in round 1], even decider


def test_by_hand():
    """One answer in four is right, going on is worth 1/4 whatever the round: every number of the statement."""
    table = jnp.asarray([1.0, 0.0, 0.0, 0.0])
    for b in (0.0, 0.3, 1.0):
        expected = (np.asarray(table) - b) / N[0] - (0.25 - b) * MEAN_INVERSE
        np.testing.assert_allclose(pushes(table, b), expected, rtol=0, atol=1e-15)
        # Control: a forced stop that counts as a token.
        wrong = (np.asarray(table) - b) / N[0] - (0.25 - b) * (0.5 / N[1] + 0.5 / (N[2] + 1))
        assert np.abs(np.asarray(pushes(table, b)) - wrong).min() > 1e-4


@pytest.mark.parametrize(("grade", "sign"), [(0.0, -1.0), (1.0, 1.0)])
def test_signs_are_strict_where_reward_is_silent(grade, sign):
    """No right answer at all (V = 0): long failures are punished less, so RESAMPLE; none wrong (V = 1): STOP."""
    table = jnp.full(4, grade)
    np.testing.assert_allclose(pushes(table, 0.0, reinforce), 0.0, atol=1e-15)
    for b in (0.25, 0.5, 0.75):
        assert (sign * np.asarray(pushes(table, b)) > 0.01).all()
    np.testing.assert_allclose(pushes(table, grade), 0.0, atol=1e-15)  # b = V: silent too


@pytest.mark.parametrize(("baseline", "flipped"), [(-0.1, False), (-1.0, True), (1.1, False), (2.0, True)])
def test_a_baseline_outside_of_the_unit_interval_can_flip(baseline, flipped):
    """b < 0 turns wrong answers, b > 1 right ones, once what is lost to dilution exceeds what going on brings."""
    table = jnp.asarray([1.0, 0.0, 0.0, 0.0]) if baseline < 0 else jnp.asarray([1.0, 1.0, 1.0, 0.0])
    push = np.asarray(pushes(table, baseline))
    right = np.asarray(table) > 0.5
    wrong_way = (push[~right] > 0) if baseline < 0 else (push[right] < 0)
    assert wrong_way.all() == wrong_way.any() == flipped


def test_early_right_answers_and_late_wrong_ones():
    """What is said of sizes: (1 - b)/n_tau falls with tau, and so does |b|/n_tau."""
    assert N[0] < N[1] < N[2]
    b = 0.4
    reinforced, punished = (1 - b) / np.array(N), b / np.array(N)
    assert (np.diff(reinforced) < 0).all()
    assert (np.diff(punished) < 0).all()


def test_token_mean_grpo_keeps_the_signs_with_a_binary_verifier():
    """It is this surrogate with b = p, which lies in [0, 1]."""
    push = pushes(jnp.asarray([1.0, 0.0, 0.0, 1.0]), 0.0, partial(grpo, group_size=4, epsilon=0.0))
    assert ((np.asarray(push) > 0) == [True, False, False, True]).all()

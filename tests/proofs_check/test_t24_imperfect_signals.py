"""T24 by hand: a discounted value of going on is not gamma^(L+1) times the undiscounted one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import reinforce
from dsjax.policies import SaturatedPolicy
from dsjax.process import DecisionSamplingProcess


@pytest.mark.usefixtures("x64")
def test_thresholds_of_three_rounds_at_even_odds():
    """Answers of one token, the first of two right, everything even: V_2 = V_3 = 1/2, gamma = 0.8.

    Going on to the forced stop is worth 0.8 x 1/2 = 0.4, not 0.8^2/2 = 0.32. Before that a right answer is worth
    (1 + 0.4)/2 and a wrong one 0.4/2, so going on 0.8^2 x (0.7 + 0.2)/2 = 0.288, not 0.32.
    """
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.asarray([[1.0, 0.0]]), vocabulary=2, length=1, rounds=3, history="full"
    )
    policy = SaturatedPolicy.for_process(process)
    params = {name: jnp.zeros(shape) for name, shape in policy.shapes().items()}
    discounted = partial(reinforce, baseline="returns_to_go", discount=0.8)

    @jax.jit
    def gradients(params):
        return component_gradients(policy, params, process.enumerate_trajectories(policy, params), discounted)

    up = gradients(params).decision["decision"][0, :, :, 0]
    visits = np.array([[0.5], [0.125], [0.125]])  # an answer of round 1, and of round 2 after each first answer
    pushes = np.asarray(up) / (visits * 0.25)
    going_on = np.array([[0.288], [0.4], [0.4]])
    assert pushes == pytest.approx(np.array([[1.0, 0.0]]) - going_on, abs=1e-14)

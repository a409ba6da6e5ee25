"""T12: groups written out one by one, values by hand, and what the statement does not cover."""

import itertools
from functools import partial
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import grpo, reinforce
from dsjax.policies import SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP
from proofs_check.numerics import gap
from proofs_check.theorems.t12_grpo.numeric import factor
from tests.cases import SMALL, make_case

pytestmark = pytest.mark.usefixtures("x64")

# Sums of at most 6^3 groups, each a few roundings of numbers of order one.
TIGHT = 1e-12


@pytest.mark.parametrize(
    ("objective", "scale", "size"),
    [
        ("group_normalised", "c_G", 2),
        ("group_normalised", "c_G", 3),
        ("group_mean", "(G-1)/G", 3),
        ("leave_one_out", "1", 3),
    ],
)
def test_every_group_written_out(objective, scale, size):
    """G independent trajectories, all of them, with their probability: the mean gradient of the sampled objective."""
    case = make_case(SMALL, seed=3, binary=True)
    options = {"epsilon": 0.0} if objective == "group_normalised" else {}
    sampled = partial(reinforce, baseline=objective, **options)

    @jax.jit
    def both(process, params):
        law = process.enumerate_trajectories(case.policy, params)
        members = np.array(list(itertools.product(range(law.weight.size), repeat=size)))

        def of_group(index_G):
            group = jax.tree.map(lambda x: x[index_G], law)
            group = group.replace(weight=jnp.full(size, 1 / size), exact=False)
            return component_gradients(case.policy, params, group, sampled)

        probability = jnp.prod(law.weight[members], axis=1)
        mean = jax.tree.map(lambda g: jnp.tensordot(probability, g, 1), jax.vmap(of_group)(members))
        return mean, component_gradients(case.policy, params, law, reinforce), jnp.sum(law.weight * law.reward)

    mean, exact, p = both(case.process, case.params)
    c = {"c_G": float(factor(p[None], size)[0]), "(G-1)/G": (size - 1) / size, "1": 1.0}
    assert 0.05 < float(p) < 0.95
    for component in ("sample", "decision"):
        stated = jax.tree.map(lambda g: c[scale] * g, getattr(exact, component))
        assert float(gap(getattr(mean, component), stated)) < TIGHT
        # Control: another factor of the statement's is seen (c_2 = 1 is that of leave-one-out).
        for name, other in c.items():
            if abs(other - c[scale]) > TIGHT:
                wrong = jax.tree.map(lambda g, other=other: other * g, getattr(exact, component))
                assert float(gap(getattr(mean, component), wrong)) > 1e-4, name


def test_factors_by_hand():
    p = jnp.asarray([0.01, 0.3, 0.5, 0.8])
    v = p * (1 - p)
    by_hand = {2: jnp.ones_like(p), 3: jnp.full_like(p, sqrt(2)), 4: sqrt(3) - (2 * sqrt(3) - 3) * v}
    for G, c in by_hand.items():
        np.testing.assert_allclose(factor(p, G), c, rtol=1e-13)
    # epsilon: with G = 2 every mixed group has std 1/2, so the factor is (1/2) / (1/2 + epsilon).
    np.testing.assert_allclose(factor(p, 2, 0.1), np.full(4, 0.5 / 0.6), rtol=1e-13)


@pytest.mark.parametrize("size", [4, 8, 32])
def test_rare_prompts_get_a_capped_weight(size):
    """c_G tends to sqrt(G - 1) as p -> 0, not to infinity as 1/sqrt(p (1-p)) does."""
    p = jnp.asarray([1e-9, 0.5])
    rare, even = factor(p, size).tolist()
    assert rare == pytest.approx(sqrt(size - 1), rel=1e-6)
    assert 2 * (size - 1) / size < even < min(2 * sqrt((size - 1) / size), rare)


def test_the_limit_is_reached_at_the_rate_that_is_proved():
    p = jnp.asarray([0.1, 0.4])
    v = np.asarray(p * (1 - p))
    for G in (50, 200, 800):
        below = 1 - np.asarray(factor(p, G)) * np.sqrt(v)
        assert (below > 1 - sqrt(1 - 1 / G)).all()
        assert (below < (1 + 1 / v) / (2 * G)).all()


def line(law, grades, rounds=2) -> tuple[DecisionSamplingProcess, SaturatedPolicy, dict[str, jax.Array]]:
    """One prompt, one-token answers drawn from `law` in every round, an even decider."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.asarray([grades]), vocabulary=len(grades), length=1, rounds=rounds
    )
    policy = SaturatedPolicy.for_process(process)
    shapes = policy.shapes()
    sample = jnp.broadcast_to(jnp.log(jnp.asarray(law)), shapes["sample"])
    return process, policy, {"sample": sample, "decision": jnp.zeros(shapes["decision"])}


def test_graded_verifier_the_standard_deviation_can_turn_the_decider():
    """G = 2: A = P(R lower) - P(R higher), a matter of ranks; 0.1 is above most answers and below the mean."""
    law, grades = [0.2, 0.75, 0.05], (0.0, 0.1, 1.0)
    process, policy, params = line(law, grades)
    middle, stop_and_resample = 1, 0.25
    ranks = partial(reinforce, baseline="group_normalised", group_size=2, epsilon=0.0, reward_support=grades)

    @jax.jit
    def on_stop(params):
        traj = process.enumerate_trajectories(policy, params)
        both = (component_gradients(policy, params, traj, f).decision["decision"] for f in (reinforce, ranks))
        return [g[0, 0, middle, STOP] for g in both]

    plain, turned = (float(x) for x in on_stop(params))
    visits = law[middle] * stop_and_resample
    # The decider stops at all answers alike, so R has the law of one answer, and going on is worth its mean.
    assert plain == pytest.approx(visits * (0.1 - 0.125), abs=1e-14)
    assert turned == pytest.approx(visits * (law[0] - law[2]), abs=1e-14)
    assert plain < 0 < turned


def test_token_mean_has_no_factor_but_for_one_round():
    """Dividing by T_i changes two decisions of one prompt by different factors."""
    process, policy, params = line([0.3, 0.3, 0.4], (1.0, 0.0, 0.0), rounds=3)
    params = {**params, "decision": params["decision"] + jnp.asarray([[[[1.0, 0.0], [0.0, 0.5], [0.0, 0.0]]]])}

    @jax.jit
    def ratio(params):
        traj = process.enumerate_trajectories(policy, params)
        by_token = partial(grpo, group_size=4, epsilon=0.0)
        both = [component_gradients(policy, params, traj, f).decision["decision"] for f in (by_token, reinforce)]
        return both[0][0, 0, :, STOP] / both[1][0, 0, :, STOP]

    right, wrong, _ = ratio(params).tolist()
    assert abs(right / wrong - 1) > 0.05

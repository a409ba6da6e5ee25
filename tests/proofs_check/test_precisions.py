"""Counterexamples to first wordings of statements (docs/theory.md, corrections and precisions)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.evaluation.accounting import final_accuracy
from dsjax.objectives import reinforce
from dsjax.policies import SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from proofs_check.instances import Shape, draw
from proofs_check.theorems.t03_conservation import numeric as t03
from proofs_check.theorems.t06_kl_length import numeric as t06

pytestmark = pytest.mark.usefixtures("x64")


def of_settings(module, shape, function, count=5):
    """The function of a few instances' settings, stacked."""

    @jax.jit
    @jax.vmap
    def batch(key):
        return function(module.Setting(draw(key, shape)))

    return batch(jax.random.split(jax.random.key(3), count))


def energies_and_bounds(shape):
    """((E_s, bound), (E_d, bound)) of T3."""
    return of_settings(t03, shape, lambda s: ((s.E_s, s.S), (s.E_d, s.D)))


def test_t3_one_softmax_for_several_rounds_loses_energy():
    blind = Shape(rounds=3, length=1, vocabulary=2, history="none")
    for energy, bound in energies_and_bounds(blind):
        assert np.all(energy < bound - 1e-8)
    for energy, bound in energies_and_bounds(replace(blind, history="full")):
        np.testing.assert_allclose(energy, bound, atol=1e-12)


def test_t3_without_history_two_rounds_are_tight_for_the_decider_alone():
    (E_s, bound_s), (E_d, bound_d) = energies_and_bounds(Shape(rounds=2, length=1, vocabulary=3, history="none"))
    np.testing.assert_allclose(E_d, bound_d, atol=1e-12)
    assert np.all(E_s < bound_s - 1e-8)


def test_t6_the_law_of_prompts_is_not_in_the_budget():
    shape = Shape(rounds=2, length=1, vocabulary=3, prompts=3)

    def law(s):
        return sum(s.energies[t06.TRAJECTORY]), s.traj.weight, s.lam, s.traj.prompt[:, 0]

    for total, *rest in zip(*of_settings(t06, shape, law), strict=True):
        weight, log_ratio, prompt = (np.asarray(x) for x in rest)
        mean = (weight * log_ratio).sum()
        variance = (weight * (log_ratio - mean) ** 2).sum()
        masses = [weight[prompt == q].sum() for q in range(3)]
        means = [(weight * log_ratio)[prompt == q].sum() / mass for q, mass in enumerate(masses)]
        between = sum(mass * (m - mean) ** 2 for mass, m in zip(masses, means, strict=True))
        assert total < variance - 1e-6
        assert float(total) == pytest.approx(variance - between, abs=1e-12)


def test_t8_graded_verifier_rounds_that_share_a_logit_can_disagree():
    """r = .55 is worse than what a good decider still expects after round 1, better than the last answer."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray([[1.0, 0.55, 0.0]]),
        vocabulary=3,
        length=1,
        rounds=3,
    )
    middle = 1
    logits = jnp.asarray([[3.0, 0.0], [0.0, 0.0], [-3.0, 0.0]])

    @partial(jax.jit, static_argnames="history")
    def stop_gradient(history):
        at = process.replace(history=history)
        policy = SaturatedPolicy.for_process(at)
        shapes = policy.shapes()
        params = {
            "sample": jnp.zeros(shapes["sample"]),
            "decision": jnp.broadcast_to(logits[None, None], shapes["decision"]),
        }
        traj = at.enumerate_trajectories(policy, params)
        return component_gradients(policy, params, traj, reinforce).decision["decision"][0, :, middle, 0]

    first, *second = stop_gradient("full").tolist()
    assert first < 0 < min(second)
    assert float(stop_gradient("none")[0]) == pytest.approx(first + sum(second), abs=1e-15)


def test_t10_a_pooled_decider_that_looks_good_can_bring_nothing():
    p, a, b = jnp.asarray([0.9, 0.1]), jnp.asarray([0.9, 0.1]), jnp.asarray([0.9, 0.1])
    pooled_a, pooled_b = (p * a).sum() / p.sum(), ((1 - p) * b).sum() / (1 - p).sum()
    assert float(pooled_a) == pytest.approx(0.82)
    assert float(pooled_b) == pytest.approx(0.18)
    for rounds in (1, 2, 5, 50):
        np.testing.assert_allclose(final_accuracy(p, a, b, rounds), p, atol=1e-15)


@pytest.mark.parametrize("rounds", [2, 3, 10])
def test_t10_gain_changes_sign_with_a_minus_b(rounds):
    p = jnp.linspace(0.05, 0.95, 7)
    for a, b in ((0.6, 0.3), (0.3, 0.6)):
        gain = final_accuracy(p, jnp.full_like(p, a), jnp.full_like(p, b), rounds) - p
        assert np.all(np.sign(gain) == np.sign(a - b))

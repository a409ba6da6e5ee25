"""T11 by hand, its bound at its tightest, and what is left of it without history."""

import math
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import reward_with_kl
from dsjax.policies import SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check.instances import Shape, draw
from proofs_check.theorems.t07_kl_tax.numeric import kl_to_go, with_trajectory_kl
from proofs_check.theorems.t11_soft_optimum import numeric as t11

pytestmark = pytest.mark.usefixtures("x64")


def process_of(history, rounds=2):
    """One token decides; a fair reference that stops with probability 1/2."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray([[0.0, 1.0]]),
        vocabulary=2,
        length=1,
        rounds=rounds,
        cost=0.1,
        history=history,
    )
    policy = SaturatedPolicy.for_process(process)
    return process, policy, {name: jnp.zeros(shape) for name, shape in policy.shapes().items()}


def test_by_hand():
    beta, again = 0.5, 0.5 * math.log((1 + math.exp(2)) / 2) - 0.1
    process, policy, reference = process_of("full")

    @jax.jit
    def run(reference):
        logp = log_probs(policy, reference, process.support())
        return t11.soft_bellman(process, process.tables(logp), jnp.asarray(beta))

    V, soft = run(reference)
    U = [beta * math.log((math.exp(r / beta) + math.exp(again / beta)) / 2) for r in (0.0, 1.0)]
    V_1 = beta * math.log((math.exp(U[0] / beta) + math.exp(U[1] / beta)) / 2)
    assert float(V[0][0, 0]) == pytest.approx(V_1, abs=1e-15)
    np.testing.assert_allclose(V[1][0], again + 0.1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(soft.log_sample[0][0, 0], np.log(0.5) + (np.array(U) - V_1) / beta, rtol=0, atol=1e-15)
    stop = np.log(0.5) + (np.array([0.0, 1.0]) - np.array(U)) / beta
    np.testing.assert_allclose(soft.log_stop[0][0, 0], stop, rtol=0, atol=1e-15)
    # Per factor, not per component: a decision between 0 and 0.5 moves as an answer between such values does.
    assert stop[1] > np.log(0.5) > stop[0]


def test_the_bound_on_the_tilt_cannot_be_improved():
    """A fair coin between 0 and 1: soft less hard value is w^2/(8 beta) in the limit of large beta."""
    for beta, share in ((1.0, 0.95), (10.0, 0.999)):
        soft = beta * (math.log(math.expm1(1 / beta) + 2) - math.log(2))
        assert share < (soft - 0.5) * 8 * beta < 1


def test_one_round_needs_no_history():
    shape = Shape(rounds=1, length=2, vocabulary=2, prompts=2, history="none")

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def run(key):
        return t11.THEOREM.measure(shape, draw(key, shape))

    claims, controls = run(jax.random.key(0))
    names = [c.name for c in t11.THEOREM.claims]
    assert names[0] in claims  # no gradient at the optimum
    assert not any("no history" in name for name in claims)
    assert len(controls) == 3
    for claim in t11.THEOREM.claims:
        assert claim.name not in claims or claims[claim.name].error <= claim.tolerance
    for control in t11.THEOREM.controls:
        assert control.name not in controls or controls[control.name] > 10 * control.claim.tolerance


@pytest.mark.parametrize("history", ["full", "none"])
def test_without_history_the_best_policy_averages_over_rounds(history):
    """The maximum within the class, found by ascent: with history the soft value, without it less by beta KL(P || P*).

    Without history the sampler is pushed nowhere there either, but only on average: its advantage of R - beta Lam is
    not 0 in each round, its visit-weighted sum over rounds is.
    """
    beta = jnp.asarray(0.5)
    process, policy, reference = process_of(history)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def run(reference):
        support = process.support()
        ref_logp = log_probs(policy, reference, support)

        def law(params):
            traj = support.under(log_probs(policy, params, support), support.weight)
            return traj.replace(ref_logp=ref_logp)

        def climb(_, params):
            step = component_gradients(policy, params, law(params), with_trajectory_kl(beta)).total
            return jax.tree.map(lambda x, g: x + 4.0 * g, params, step)

        best = jax.lax.fori_loop(0, 2000, climb, reference)
        traj = law(best)
        tables = process.tables(log_probs(policy, best, support))
        V, soft = t11.soft_bellman(process, process.tables(ref_logp), beta)
        payoff = reward_with_kl(traj, beta)
        advantage = process.values(tables, payoff).advantage_sample
        gradients = component_gradients(policy, best, traj, with_trajectory_kl(beta))
        visits = process.visitation(tables).answer
        summed = sum(jnp.sum(rho * a, axis=1) for rho, a in zip(visits, advantage, strict=True))
        return {
            "gradient": jnp.max(jnp.abs(jax.flatten_util.ravel_pytree(gradients.total)[0])),
            "regret": V[0][0, 0] - jnp.sum(traj.weight * payoff),
            "kl": beta * kl_to_go(process, tables, soft)[0][0, 0],
            "advantage": jnp.max(jnp.abs(advantage[1])),
            "summed": jnp.max(jnp.abs(summed)),
        }

    found = {name: float(x) for name, x in run(reference).items()}
    assert found["gradient"] < 1e-12
    assert found["summed"] < 1e-12
    assert found["regret"] == pytest.approx(found["kl"], abs=1e-14)
    if history == "full":
        assert found["regret"] < 1e-14
        assert found["advantage"] < 1e-11
    else:
        assert found["regret"] > 1e-4
        assert found["advantage"] > 1e-2

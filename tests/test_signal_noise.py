"""Signal, second moment and noise against NumPy: scores one by one, pseudo-inverse, every kind of coefficient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dsjax.attribution import (
    coefficients,
    component_gradients,
    energies,
    fisher,
    signal_to_noise,
    trajectory_gradients,
)
from dsjax.objectives import resolve
from dsjax.policies import SharedPolicy, log_probs
from tests.cases import Shape, enumerated, make_case

pytestmark = pytest.mark.usefixtures("x64")

CASES = (  # one coefficient a trajectory: the first two; one a token: the others
    ("reinforce", {"baseline": "batch_mean"}, "saturated"),
    ("grpo", {}, "shared"),
    ("sft", {"decision_weight": 2.0}, "saturated"),
    ("own_token_kl", {"estimator": "k2"}, "shared"),
)


@functools.lru_cache
def setting(kind):
    """(policy, parameters, exact law with a reference), saturated or with shared parameters."""
    with jax.enable_x64(True):
        case = make_case(Shape(2, 1, 2, 2, "full"), seed=4, binary=True)
        policy, params = case.policy, case.params
        if kind == "shared":
            size = sum(x.size for x in params.values())
            policy = SharedPolicy(case.policy, jnp.asarray(np.random.default_rng(0).normal(size=(size, 3))))
            params = jnp.asarray([0.3, -0.5, 1.0])
        traj = enumerated(case.process, policy, params)
        assert traj.old_logp is not None
        ref = jax.jit(lambda p: log_probs(policy, p, traj))(jax.tree.map(lambda x: 0.5 * x, params))
        return policy, params, traj.replace(ref_logp=ref)


def brute(policy, params, traj, objective):
    """((S, M) of pi_sample, (S, M) of pi_d) from the Jacobian of every token's log-prob."""
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def parts(flat):
        jacobian = jax.jacrev(lambda p: log_probs(policy, unravel(p), traj))(flat)
        logp = log_probs(policy, unravel(flat), traj)
        return jacobian, coefficients(objective, logp, traj), fisher(policy, unravel(flat), traj)

    jacobian, c, F = jax.device_get(parts(flat))
    law = np.asarray(traj.weight / traj.weight.sum())
    found = []
    for mask, F_c in zip((traj.sample_mask, traj.decision_mask), F, strict=True):
        inverse = np.linalg.pinv(F_c, rcond=1e-12, hermitian=True)
        rows = np.einsum("bs,bsp->bp", np.where(mask, c, 0.0), jacobian)
        G = rows.sum(0)
        found.append((G @ inverse @ G, sum(g @ inverse @ g / m for g, m in zip(rows, law, strict=True))))
    return found


@pytest.mark.parametrize(("name", "options", "kind"), CASES)
def test_against_scores_and_pseudo_inverse(name, options, kind):
    policy, params, traj = setting(kind)
    objective = resolve(name, options)
    m = jax.jit(functools.partial(signal_to_noise, policy, objective=objective))(params, traj)
    (S_s, M_s), (S_d, M_d) = brute(policy, params, traj, objective)
    # Condition of the Fisher blocks ~ 1e3 at these logits; 12 trajectories.
    assert float(m.signal_sample) == pytest.approx(S_s, rel=1e-9, abs=1e-14)
    assert float(m.signal_decision) == pytest.approx(S_d, rel=1e-9, abs=1e-14)
    assert float(m.moment_sample) == pytest.approx(M_s, rel=1e-9)
    assert float(m.moment_decision) == pytest.approx(M_d, rel=1e-9)
    assert float(m.noise_sample) == pytest.approx(M_s - S_s, rel=1e-8)
    assert float(m.noise_decision) == pytest.approx(M_d - S_d, rel=1e-8)
    assert 0 <= float(m.ratio_sample) <= 1
    assert 0 <= float(m.ratio_decision) <= 1


def test_mean_of_the_trajectory_gradients_is_the_gradient():
    policy, params, traj = setting("shared")
    objective = resolve("rloo")

    @jax.jit
    def both(params, traj):
        rows = trajectory_gradients(policy, params, traj, objective)
        gradients = component_gradients(policy, params, traj, objective)
        m = signal_to_noise(policy, params, traj, objective)
        return rows, gradients, m, energies(policy, params, traj, gradients)

    rows, gradients, m, E = both(params, traj)
    for row, gradient in zip(rows, (gradients.sample, gradients.decision), strict=True):
        np.testing.assert_allclose(traj.weight @ row, gradient, atol=1e-14)
    np.testing.assert_allclose((m.signal_sample, m.signal_decision), E, rtol=1e-10)


def test_scale_of_the_weights_and_weightless_trajectories_do_not_matter():
    policy, params, traj = setting("saturated")
    run = jax.jit(lambda t: signal_to_noise(policy, params, t, resolve("sft")))
    halved = traj.replace(weight=traj.weight * 0.5, exact=False)
    for a, b in zip(jax.tree.leaves(run(traj)), jax.tree.leaves(run(halved)), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-12)
    first = jnp.arange(traj.weight.shape[0]) < 4
    some = traj.replace(weight=jnp.where(first, traj.weight, 0.0), exact=False)
    cut = jax.tree.map(lambda x: x[:4], traj).replace(exact=False)
    for a, b in zip(jax.tree.leaves(run(some)), jax.tree.leaves(run(cut)), strict=True):
        assert np.isfinite(a)
        assert float(a) == pytest.approx(float(b), rel=1e-10)


def test_nothing_to_move_gives_nan_not_zero():
    policy, params, traj = setting("saturated")
    m = jax.jit(lambda t: signal_to_noise(policy, params, t, resolve("reinforce")))(
        traj.replace(reward=jnp.zeros_like(traj.reward))
    )
    assert float(m.moment_sample) == 0
    assert np.isnan(m.ratio_sample)
    assert np.isnan(m.ratio_decision)

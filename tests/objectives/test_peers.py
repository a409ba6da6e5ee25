"""The same functions in optax and, where it can be imported, in rlax."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsjax.objectives import resolve
from dsjax.objectives.advantages import advantage
from dsjax.objectives.critic import value_loss
from dsjax.trajectories import Trajectories
from tests.objectives.reference import batch, quick_jit

EXACT = 1e-13  # a few dozen operations on numbers of order 1


@pytest.fixture
def rlax():
    """Not a dependency: rlax needs nightly builds of another library, and warns of deprecations wherever it is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("rlax", exc_type=ImportError)


def full(traj: Trajectories) -> Trajectories:
    """No padding: rlax takes rectangular batches."""
    decision = jnp.zeros(traj.tokens.shape, bool).at[:, 2::3].set(True)
    return traj.replace(sample_mask=~decision, decision_mask=decision)


def logits_for(logp: jax.Array) -> jax.Array:
    """Logits of two tokens, of which token 0 has this log-probability."""
    return jnp.stack([logp, jnp.log1p(-jnp.exp(logp))], axis=-1)


def test_optax_cross_entropy(x64):
    logp, traj = batch()
    nll = optax.softmax_cross_entropy_with_integer_labels(logits_for(logp), jnp.zeros(logp.shape, jnp.int32))
    total, count = quick_jit(resolve("sft"))(logp, traj)
    assert float(total / count) == pytest.approx(float(jnp.mean(nll, where=traj.mask)), rel=EXACT)


def test_optax_sigmoid_cross_entropy_is_dpo(x64):
    logp, traj = batch()
    traj = traj.replace(group=jnp.asarray([0, 0, 1, 1, 2, 2, 3, 3], jnp.int32))
    drift = jnp.sum(jnp.where(traj.mask, logp - jnp.asarray(traj.ref_logp), 0.0), -1).reshape(4, 2)
    sign = jnp.sign(traj.reward.reshape(4, 2) @ jnp.asarray([1.0, -1.0]))
    gap = sign * (drift @ jnp.asarray([1.0, -1.0]))
    expected = optax.sigmoid_binary_cross_entropy(0.3 * gap, jnp.ones(4))[sign != 0].mean()
    total, count = quick_jit(resolve("dpo", {"beta": 0.3}))(logp, traj)
    assert float(total / count) == pytest.approx(float(expected), rel=EXACT)


def test_optax_l2_is_the_value_loss(x64):
    logp, traj = batch()
    target = advantage("gae", traj.reward, traj) + jnp.asarray(traj.values)
    total, count = quick_jit(value_loss)(logp, traj)
    expected = jnp.mean(optax.l2_loss(logp, target), where=traj.mask)
    assert float(total / count) == pytest.approx(float(expected), rel=EXACT)


def test_rlax_gae(x64, rlax):
    _, traj = batch()
    traj = full(traj)
    rewards = jnp.zeros(traj.tokens.shape).at[:, -1].set(traj.reward)
    values = jnp.concatenate([jnp.asarray(traj.values), jnp.zeros((8, 1))], axis=1)
    for gamma, lam in ((1.0, 1.0), (0.9, 0.8), (1.0, 0.0)):
        ours = advantage("gae", traj.reward, traj, discount=gamma, gae_lambda=lam)
        theirs = jax.vmap(
            lambda r, v: rlax.truncated_generalized_advantage_estimation(r, jnp.full(9, gamma), lam, v)  # noqa: B023
        )(rewards, values)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=EXACT)


def test_rlax_clipped_surrogate(x64, rlax):
    logp, traj = batch()
    traj = full(traj)
    A = advantage("gae", traj.reward, traj)

    def theirs(x):
        return rlax.clipped_surrogate_pg_loss(jnp.exp(x - traj.old_logp).ravel(), A.ravel(), 0.2)

    f = resolve("ppo")
    ours = quick_jit(jax.value_and_grad(lambda x: f(x, traj)[0] / f(x, traj)[1]))(logp)
    for a, b in zip(ours, quick_jit(jax.value_and_grad(theirs))(logp), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)


def test_rlax_policy_gradient_and_returns(x64, rlax):
    logp, traj = batch()
    traj = full(traj)
    rewards = jnp.asarray(np.random.default_rng(2).normal(size=logp.shape))
    ours = advantage("returns_to_go", rewards, traj, discount=0.9)
    theirs = jax.vmap(lambda r: rlax.lambda_returns(r, jnp.full(9, 0.9), jnp.zeros(9), 1.0))(rewards)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=EXACT)
    total, count = resolve("surrogate", {"advantage": ours, "aggregation": "token_mean"})(logp, traj)
    expected = rlax.policy_gradient_loss(
        logits_for(logp).reshape(-1, 2), jnp.zeros(72, jnp.int32), ours.ravel(), jnp.ones(72)
    )
    assert float(total / count) == pytest.approx(float(expected), rel=EXACT)


def test_rlax_entropy(x64, rlax):
    """Both tokens of 8 contexts with their probabilities: the estimate and its gradient average to the exact ones."""
    logp, traj = batch()
    first = jnp.zeros((16, 9), bool).at[:, 0].set(True)
    law = jax.tree.map(lambda x: jnp.concatenate([x, x]), traj).replace(sample_mask=first, decision_mask=~first & first)

    def ours(x):
        both = jnp.concatenate([x, jnp.log1p(-jnp.exp(x))])
        f, weight = resolve("entropy_bonus"), jax.lax.stop_gradient(jnp.exp(both)) / 8
        total, count = f(jnp.broadcast_to(both[:, None], (16, 9)), law.replace(weight=weight))
        return total / count

    def theirs(x):
        return rlax.entropy_loss(logits_for(x), jnp.ones(8))

    for a, b in zip(*(quick_jit(jax.value_and_grad(f))(logp[:, 0]) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)

"""T14, sampled: the second moment of one trajectory's gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients, energy, fisher, signal_to_noise
from dsjax.objectives import reinforce
from dsjax.trajectories import Trajectories
from proofs_check.statistical.estimator import Estimator, Wrong
from proofs_check.statistical.settings import Setting


def _square_lengths(setting: Setting, traj: Trajectories, payoff_B: jax.Array) -> jax.Array:
    """f[B, 2]: g_c^T F_c^+ g_c for the component gradients of REINFORCE on each trajectory alone."""
    F_s, F_d = fisher(setting.policy, setting.params, setting.exact)

    def one(traj: Trajectories, payoff: jax.Array) -> jax.Array:
        alone = jax.tree.map(lambda x: x[None], traj).replace(
            reward=payoff[None], weight=jnp.ones((1,), payoff.dtype), exact=False
        )
        g = component_gradients(setting.policy, setting.params, alone, reinforce)
        return jnp.stack([energy(g.sample, F_s), energy(g.decision, F_d)])

    return jax.vmap(one)(traj, payoff_B)


def _mean_return(setting: Setting) -> jax.Array:
    return jnp.sum(setting.exact.weight * setting.exact.reward)


def _sampled(setting: Setting, traj: Trajectories) -> jax.Array:
    return jnp.mean(_square_lengths(setting, traj, traj.reward - _mean_return(setting)), axis=0)


def _without_baseline(setting: Setting, traj: Trajectories) -> jax.Array:
    return jnp.mean(_square_lengths(setting, traj, traj.reward), axis=0)


def _enumerated(setting: Setting) -> jax.Array:
    law = setting.exact.replace(reward=setting.exact.reward - _mean_return(setting))
    found = signal_to_noise(setting.policy, setting.params, law, reinforce)
    return jnp.stack([found.moment_sample, found.moment_decision])


def whitened_moments(setting: Setting) -> jax.Array:
    """f[2]: E[g_c^T F_c^+ g_c] of the one-trajectory estimator g_c = (R - J) score_c.

    For a position-wise policy, one prompt, a decider that reads the first token. The block of a context x is
    n(x) (diag pi - pi pi^T), so with k(v) draws of v the quadratic form of the score is
    sum_v (k(v) - k pi(v))^2 / (n pi(v)), added over positions for the sampler and over read tokens for the decider.
    """
    process, traj = setting.process, setting.exact
    payoff_B = traj.reward - _mean_return(setting)
    V, L = process.vocabulary, process.length
    tokens_BxKxL1 = traj.blocks(traj.tokens, L)
    drawn = traj.blocks(traj.mask, L).astype(float)
    hot = jax.nn.one_hot(tokens_BxKxL1, V, dtype=float) * drawn[..., None]
    k_s = jnp.sum(hot[:, :, :L], 1)  # [B, L, V]
    read = jax.nn.one_hot(tokens_BxKxL1[..., 0], V, dtype=float)
    decided = jax.nn.one_hot(tokens_BxKxL1[..., L], 2, dtype=float) * drawn[..., L, None]
    k_d = jnp.sum(read[..., :, None] * decided[..., None, :], 1)  # [B, first token, 2]

    def moment(k: jax.Array, logits: jax.Array) -> jax.Array:
        pi = jax.nn.softmax(logits)[None]
        draws = jnp.sum(k, -1, keepdims=True)
        n = jnp.sum(traj.weight[:, None, None] * draws, 0, keepdims=True)
        return jnp.sum((traj.weight * payoff_B**2)[:, None, None] * (k - draws * pi) ** 2 / (n * pi))

    return jnp.stack([moment(k_s, setting.params["sample"][0]), moment(k_d, setting.params["decision"][0])])


ESTIMATORS = (
    Estimator(
        "one trajectory, w = R - J",
        "T14",
        "whitened second moments of g_s, g_d",
        "position-wise",
        _sampled,
        _enumerated,
        whitened_moments,
        Wrong("w = R", _without_baseline),
        decider=1,
    ),
)

"""Expected gradients as the statements give them, from dense tables: no objective, no advantage, no token loop."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp

from dsjax.policies import Params, log_probs
from proofs_check.closed_forms import context_counts
from proofs_check.statistical.settings import MEMBERS, Setting

GRPO_EPSILON = 1e-4  # the library's default


def _returns(setting: Setting, params: Params) -> jax.Array:
    """f[Q]: V_1(q), differentiable in the parameters."""
    process = setting.process
    return process.values(process.tables(log_probs(setting.policy, params, setting.exact))).V[0][:, 0]


def return_gradient(setting: Setting) -> Params:
    """grad J, by differentiating the backward recursion."""
    return jax.grad(lambda p: jnp.sum(setting.process.prompt_law * _returns(setting, p)))(setting.params)


def trajectory_kl_gradient(setting: Setting) -> Params:
    """grad KL(P || P_ref), by differentiating the sum over all trajectories."""
    traj = setting.exact
    assert traj.ref_logp is not None
    log_reference_B = jnp.sum(traj.ref_logp, -1)

    def kl(params: Params) -> jax.Array:
        log_law_B = jnp.sum(log_probs(setting.policy, params, traj), -1)
        return jnp.sum(
            setting.process.prompt_law[traj.prompt[:, 0]] * jnp.exp(log_law_B) * (log_law_B - log_reference_B)
        )

    return jax.grad(kl)(setting.params)


def prompt_factor(p: jax.Array, epsilon: float = GRPO_EPSILON) -> jax.Array:
    """c_G(p) = E[std_G^2 / (std_G + epsilon)] / (p (1 - p)), std_G = sqrt(k (G - k)) / G, k ~ Bin(G, p) (T12)."""
    G, total = MEMBERS, jnp.zeros_like(p)
    for k in range(1, G):  # groups of equal returns give 0
        std = (k * (G - k)) ** 0.5 / G
        total = total + comb(G, k) * p**k * (1 - p) ** (G - k) * std**2 / (std + epsilon)
    return total / (p * (1 - p))


def group_normalised_gradient(setting: Setting) -> Params:
    """sum_q mu(q) c_G(p_q) grad p_q."""
    p_Q, pull_back = jax.vjp(lambda params: _returns(setting, params), setting.params)
    return pull_back(setting.process.prompt_law * prompt_factor(p_Q))[0]


def grpo_gradient(setting: Setting, *, mean_length: bool = False) -> Params:
    """E[c_G(p) (R - p) / T_i sum grad log pi]; `mean_length` (wrong) divides by E[T_i] instead."""
    traj = setting.exact
    p_B = _returns(setting, setting.params)[traj.prompt[:, 0]]
    tokens_B = (jnp.sum(traj.sample_mask, -1) + jnp.sum(traj.decision_mask, -1)).astype(traj.weight.dtype)
    if mean_length:
        tokens_B = jnp.sum(traj.weight * tokens_B)
    w_B = traj.weight * prompt_factor(p_B) * (traj.reward - p_B) / tokens_B
    return jax.grad(lambda p: jnp.sum(w_B * jnp.sum(log_probs(setting.policy, p, traj), -1)))(setting.params)


def local_kl_gradient(setting: Setting, direction: str) -> Params:
    """sum_x n(x) grad KL at x: `reverse` n pi (log pi/pi_ref - KL), `forward` n (pi - pi_ref)."""
    counts = context_counts(setting.process, setting.exact.weight)

    def table(counts: jax.Array, logits: jax.Array, reference: jax.Array) -> jax.Array:
        log_pi, log_ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
        n, pi = jnp.sum(counts, -1, keepdims=True), jnp.exp(log_pi)
        if direction == "forward":
            return n * (pi - jnp.exp(log_ref))
        drift = log_pi - log_ref
        return n * pi * (drift - jnp.sum(pi * drift, -1, keepdims=True))

    return jax.tree.map(table, counts, setting.params, setting.reference)


def whitened_moments(setting: Setting, payoff_B: jax.Array) -> jax.Array:
    """f[2]: E[g_c^T F_c^+ g_c] of the one-trajectory estimator g_c = payoff x score_c.

    For a position-wise policy, one prompt, a decider that reads the first token. The block of a context x is
    n(x) (diag pi - pi pi^T), so with k(v) draws of v the quadratic form of the score is
    sum_v (k(v) - k pi(v))^2 / (n pi(v)), added over positions for the sampler and over read tokens for the decider.
    """
    process, traj = setting.process, setting.exact
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

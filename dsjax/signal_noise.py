"""How loud the sampled gradient of each component is against its own noise (docs/theory.md, T14).

Trajectory i of weight m_i (its probability, or 1/B) contributes `g_c(i) = sum over the tokens t of c of k_it score_it`
to the gradient of component c, with `k_it = c_it / m_i` the coefficient that the objective gives the token. In the
Fisher metric of the policy under the contexts of the data:

    signal   S_c = G_c^T F_c^+ G_c,  G_c = E[g_c]        (the energy E_c of dsjax.attribution)
    moment   M_c = E[g_c^T F_c^+ g_c]
    noise    N_c = M_c - S_c                             (trace of the whitened covariance; one trajectory)

so a batch of n independent trajectories has signal over noise `n S_c / N_c`. `S_c / M_c` lies in [0, 1] and orders the
components the same way, whatever n.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.attribution import coefficients, component_mask, energy, fisher, ratio
from dsjax.numerics import divide
from dsjax.objectives import Objective
from dsjax.policies.base import Params, Policy, log_probs
from dsjax.trajectories import Trajectories


class SignalNoise(struct.PyTreeNode):
    """Signal and second moment of the one-trajectory gradient, both whitened by the component's Fisher matrix."""

    signal_sample: jax.Array  # f[] S_s
    signal_decision: jax.Array  # f[] S_d
    moment_sample: jax.Array  # f[] M_s
    moment_decision: jax.Array  # f[] M_d

    @property
    def noise_sample(self) -> jax.Array:
        """N_s = M_s - S_s."""
        return self.moment_sample - self.signal_sample

    @property
    def noise_decision(self) -> jax.Array:
        """N_d = M_d - S_d."""
        return self.moment_decision - self.signal_decision

    @property
    def ratio_sample(self) -> jax.Array:
        """S_s / M_s in [0, 1]; NaN where no trajectory moves the component."""
        return ratio(self.signal_sample, self.moment_sample)

    @property
    def ratio_decision(self) -> jax.Array:
        """S_d / M_d in [0, 1]; NaN where no trajectory moves the component."""
        return ratio(self.signal_decision, self.moment_decision)


def trajectory_gradients(
    policy: Policy, params: Params, traj: Trajectories, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    """(g_s, g_d), each f[B, P] in `ravel_pytree` order: every trajectory's own ascent direction.

    Their mean under the normalised weights is the component gradient (G_s, G_d). A trajectory of weight 0 gives 0.
    """
    flat, unravel = ravel_pytree(params)
    c_BxS = coefficients(objective, log_probs(policy, params, traj), traj)
    law_Bx1 = (traj.weight / jnp.sum(traj.weight))[:, None]
    k_BxS = divide(c_BxS, law_Bx1)
    masks = [component_mask(traj, name) for name in ("sample", "decision")]

    def surrogates(p: jax.Array) -> jax.Array:
        """f[2, B], one row a component: linear in log-probs, with the coefficients as data."""
        logp_BxS = log_probs(policy, unravel(p), traj)
        return jnp.stack([jnp.sum(jnp.where(mask, k_BxS * logp_BxS, 0.0), -1) for mask in masks])

    # Forward mode: P tangents instead of B pull-backs, and no [B, S, P] array.
    g_2xBxP = jax.jacfwd(surrogates)(flat)
    return g_2xBxP[0], g_2xBxP[1]


def whitened_squares(g_BxP: jax.Array, fisher_PxP: jax.Array) -> jax.Array:
    """f[B]: g^T F^+ g of each row; one eigendecomposition for all rows."""
    return jax.vmap(energy, in_axes=(0, None))(g_BxP, fisher_PxP)


def signal_to_noise(
    policy: Policy,
    params: Params,
    traj: Trajectories,
    objective: Objective,
    *,
    fishers: tuple[jax.Array, jax.Array] | None = None,
) -> SignalNoise:
    """S_c = G_c^T F_c^+ G_c and M_c = E[g_c^T F_c^+ g_c] of both components.

    Exact on an enumerated law, for any policy with a P x P Fisher matrix and any objective, whether it gives one
    coefficient per trajectory or one per token. Advantages are then those of an exact law: a baseline has no sampling
    noise of its own (what a finite group adds is in docs/theory.md, T14). On samples: the plug-in estimate,
    with the samples' contexts in F_c; its signal is biased upwards by N_c / B.

    Args:
      policy: with parameters `params`.
      params: where to measure.
      traj: trajectories with their law.
      objective: `(logp_BxS, traj) -> (sum, count)`.
      fishers: (F_s, F_d) if at hand, from `dsjax.attribution.fisher` on the same arguments.
    """
    F = fisher(policy, params, traj) if fishers is None else fishers
    law_B = traj.weight / jnp.sum(traj.weight)
    found = []
    for g_BxP, F_c in zip(trajectory_gradients(policy, params, traj, objective), F, strict=True):
        mean_1xP = jnp.sum(law_B[:, None] * g_BxP, axis=0, keepdims=True)
        squares = whitened_squares(jnp.concatenate([mean_1xP, g_BxP]), F_c)
        found.append((squares[0], jnp.sum(law_B * squares[1:])))
    (S_s, M_s), (S_d, M_d) = found
    return SignalNoise(S_s, S_d, M_s, M_d)


def second_moments(
    policy: Policy, params: Params, traj: Trajectories, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    """(M_s, M_d), M_c = E[g_c^T F_c^+ g_c]; for one coefficient w per trajectory E[w^2 score_c^T F_c^+ score_c]."""
    found = signal_to_noise(policy, params, traj, objective)
    return found.moment_sample, found.moment_decision

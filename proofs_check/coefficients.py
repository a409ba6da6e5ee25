"""Gradients and energies of several objectives at once: one pull-back and one decomposition for all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.attribution import ComponentGradients, component_gradients, energy
from dsjax.objectives import SumCount
from dsjax.policies import Params, Policy
from dsjax.trajectories import Trajectories


def gradients_of(policy: Policy, params: Params, traj: Trajectories, c_NxBxS: jax.Array) -> ComponentGradients:
    """Component gradients of N objectives with these ascent coefficients; leading axis N."""

    def one(c_BxS: jax.Array) -> ComponentGradients:
        def objective(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
            return -jnp.sum(jnp.where(traj.mask, c_BxS * logp_BxS, 0.0)), jnp.ones(())

        return component_gradients(policy, params, traj, objective)

    return jax.vmap(one)(c_NxBxS)


def energies_of(
    gradients: ComponentGradients, fishers: tuple[jax.Array, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """(E_s, E_d) of each of N objectives."""
    parts = zip((gradients.sample, gradients.decision), fishers, strict=True)
    E_s, E_d = (jax.vmap(energy, in_axes=(0, None))(g, F) for g, F in parts)
    return tuple((E_s[i], E_d[i]) for i in range(E_s.size))

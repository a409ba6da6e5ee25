"""Supervised objectives: no reward, no sign."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.objectives.aggregation import SumCount, masked
from dsjax.trajectories import Trajectories


def sft(logp_BxS: jax.Array, traj: Trajectories, *, decision_weight: float = 1.0) -> SumCount:
    """Cross-entropy, weighted token mean: -sum_it m_it log pi(y_it) / sum_it m_it; c = m_it/N_w.

    m = 1 on sampling tokens and `decision_weight` (w) on decision tokens; w = 1 is the plain token mean.
    """
    require(decision_weight >= 0, "decision_weight", decision_weight, "w >= 0")
    m_BxS = jnp.where(traj.sample_mask, 1.0, jnp.where(traj.decision_mask, decision_weight, 0.0)).astype(logp_BxS.dtype)
    total_B = jnp.sum(m_BxS * masked(-logp_BxS, traj.mask), axis=-1)
    return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight * jnp.sum(m_BxS, axis=-1))

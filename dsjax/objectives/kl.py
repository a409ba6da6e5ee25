"""KL to a reference policy: estimators, and the two places where they can stand (objectives.md, T6, T7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import InputError, require
from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.trajectories import Trajectories

ESTIMATORS = ("k1", "k2", "k3")


def _recorded(traj: Trajectories, name: str) -> jax.Array:
    x = getattr(traj, name)
    if x is None:
        raise InputError(name, None, f"trajectories with {name} (log-probs in nats, f[B, S]): a KL needs them")
    return x


def log_ratio(logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """log pi/pi_ref per token, 0 outside of the masks."""
    return masked(logp_BxS - _recorded(traj, "ref_logp"), traj.mask)


def estimate(log_ratio_BxS: jax.Array, estimator: str) -> jax.Array:
    """Per-token KL estimate from x = log pi/pi_ref: k1 = x, k2 = x^2/2, k3 = exp(-x) - 1 + x."""
    require(estimator in ESTIMATORS, "estimator", estimator, ESTIMATORS)
    if estimator == "k1":
        return log_ratio_BxS
    if estimator == "k2":
        return 0.5 * log_ratio_BxS**2
    return jnp.expm1(-log_ratio_BxS) + log_ratio_BxS


def own_token_kl(
    logp_BxS: jax.Array, traj: Trajectories, *, estimator: str = "k2", aggregation: str = "sequence_sum"
) -> SumCount:
    """KL in the loss: each token is charged its own estimate and nothing later.

    Expected gradient on-policy, per context: k1 zero (regularises nothing); k2 the reverse KL to the reference; k3
    the forward KL. The law of the contexts is data: this is not the gradient of KL(P || P_ref).
    """
    return aggregate(estimate(log_ratio(logp_BxS, traj), estimator), traj, aggregation)


def reward_with_kl(traj: Trajectories, beta: float | jax.Array) -> jax.Array:
    """Trajectory KL in the reward: R_i - beta sum_t log(pi_old/pi_ref), f[B]; data, no gradient."""
    if isinstance(beta, int | float) and beta == 0:
        return traj.reward
    drift_B = jnp.sum(log_ratio(_recorded(traj, "old_logp"), traj), axis=-1)
    return jax.lax.stop_gradient(traj.reward - beta * drift_B)

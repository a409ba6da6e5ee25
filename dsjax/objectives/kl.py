"""KL to a reference policy: estimators, and the places where they can stand (objectives.md, T6, T7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.objectives.ratios import LOG_RATIO_LIMIT, ratio, recorded
from dsjax.objectives.token_advantages import token_rewards
from dsjax.trajectories import Trajectories

ESTIMATORS = ("k1", "k2", "k3")
LOSS_ESTIMATORS = (*ESTIMATORS, "k3_ratio")  # k3 times pi/pi_old, gradient through both


def is_zero(coefficient: float | jax.Array) -> bool:
    """Whether a term can be left out of the program: a Python number equal to 0."""
    return isinstance(coefficient, int | float) and coefficient == 0


def log_ratio(logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """log pi/pi_ref per token, 0 outside of the masks."""
    return masked(logp_BxS - recorded(traj, "ref_logp"), traj.mask)


def estimate(log_ratio_BxS: jax.Array, estimator: str) -> jax.Array:
    """Per-token KL estimate from x = log pi/pi_ref: k1 = x, k2 = x^2/2, k3 = exp(-x) - 1 + x.

    k3 is constant, with gradient 0, for x < -20 (`LOG_RATIO_LIMIT`), where exp(-x) would overflow.
    """
    require(estimator in ESTIMATORS, "estimator", estimator, LOSS_ESTIMATORS)
    if estimator == "k1":
        return log_ratio_BxS
    if estimator == "k2":
        return 0.5 * log_ratio_BxS**2
    x_BxS = jnp.maximum(log_ratio_BxS, -LOG_RATIO_LIMIT)
    return jnp.expm1(-x_BxS) + x_BxS


def own_token_kl(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    estimator: str = "k2",
    aggregation: str = "sequence_sum",
    max_tokens: int | None = None,
) -> SumCount:
    """KL in the loss: each token is charged its own estimate and nothing later.

    With x = log pi/pi_ref the coefficient is -1 for k1, -x for k2, -(1 - exp(-x)) for k3 and, on-policy, -x for
    k3_ratio, over the normaliser. Expected gradient on-policy, per context: k1 zero (regularises nothing); k2 and
    k3_ratio the reverse KL to the reference; k3 the forward KL. The law of the contexts is data: this is not the
    gradient of KL(P || P_ref). Estimators: Schulman, "Approximating KL divergence" (2020).
    """
    x_BxS = log_ratio(logp_BxS, traj)
    if estimator == "k3_ratio":
        value_BxS = ratio(logp_BxS, traj, "token") * estimate(x_BxS, "k3")
    else:
        value_BxS = estimate(x_BxS, estimator)
    return aggregate(value_BxS, traj, aggregation, max_tokens)


def reward_with_kl(traj: Trajectories, beta: float | jax.Array) -> jax.Array:
    """Trajectory KL in the reward: R_i - beta sum_t log(pi_old/pi_ref), f[B]; data, no gradient."""
    if is_zero(beta):
        return traj.reward
    drift_B = jnp.sum(log_ratio(recorded(traj, "old_logp"), traj), axis=-1)
    return jax.lax.stop_gradient(traj.reward - beta * drift_B)


def token_rewards_with_kl(traj: Trajectories, beta: float | jax.Array) -> jax.Array:
    """KL in the reward of each token: R_i 1[t is the last drawn] - beta log(pi_old/pi_ref), f[B, S]; data.

    Its sum over tokens is `reward_with_kl`; with returns-to-go a token pays for itself and what follows only.
    """
    reward_BxS = token_rewards(traj.reward, traj)
    if is_zero(beta):
        return reward_BxS
    return jax.lax.stop_gradient(reward_BxS - beta * log_ratio(recorded(traj, "old_logp"), traj))

"""KL to a reference policy, and entropy: estimators, and the places where they can stand (objectives.md, T6, T7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.objectives.aggregation import masked
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


def token_kl(logp_BxS: jax.Array, traj: Trajectories, estimator: str) -> jax.Array:
    """f[B, S]: the KL of each token in the loss, by one of `LOSS_ESTIMATORS`."""
    x_BxS = log_ratio(logp_BxS, traj)
    if estimator == "k3_ratio":
        return ratio(logp_BxS, traj, "token") * estimate(x_BxS, "k3")
    return estimate(x_BxS, estimator)


def minus_entropy(logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """f[B, S]: log pi of the drawn token, with the derivative log pi + 1 of its expectation (score-function form)."""
    logp_BxS = masked(logp_BxS, traj.mask)
    once_BxS = jnp.exp(logp_BxS - jax.lax.stop_gradient(logp_BxS))  # 1, with the derivative of a ratio
    return once_BxS * logp_BxS


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

"""KL to a reference policy, and entropy: estimators, and the places where they can stand (objectives.md, T6, T7)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.objectives.aggregation import masked
from dsjax.objectives.ratios import LOG_RATIO_LIMIT, ratio, recorded
from dsjax.objectives.token_advantages import token_rewards
from dsjax.trajectories import Trajectories


def is_zero(coefficient: float | jax.Array) -> bool:
    """Whether a term can be left out of the program: a Python number equal to 0."""
    return isinstance(coefficient, int | float) and coefficient == 0


def log_ratio(logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """log pi/pi_ref per token, 0 outside of the masks."""
    return masked(logp_BxS - recorded(traj, "ref_logp"), traj.mask)


def _k3(log_ratio_BxS: jax.Array) -> jax.Array:
    """exp(-x) - 1 + x, constant, with gradient 0, for x < -20 (`LOG_RATIO_LIMIT`), where exp(-x) would overflow."""
    x_BxS = jnp.maximum(log_ratio_BxS, -LOG_RATIO_LIMIT)
    return jnp.expm1(-x_BxS) + x_BxS


# Values from x = log pi/pi_ref.
ESTIMATORS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "k1": lambda x: x,
    "k2": lambda x: 0.5 * x**2,
    "k3": _k3,
    "abs": jnp.abs,
}


def estimate(log_ratio_BxS: jax.Array, estimator: str) -> jax.Array:
    """Per-token KL estimate from x = log pi/pi_ref: k1 = x, k2 = x^2/2, k3 = exp(-x) - 1 + x, abs = |x|."""
    require(estimator in ESTIMATORS, "estimator", estimator, LOSS_ESTIMATORS)
    return ESTIMATORS[estimator](log_ratio_BxS)


def _own(value_BxS: jax.Array, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """The derivative of the value itself."""
    del logp_BxS, traj
    return value_BxS


def _with_ratio(value_BxS: jax.Array, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """Times pi/pi_old, with gradient: off-policy too an expectation under pi (TRL `use_bias_correction_kl`)."""
    return ratio(logp_BxS, traj, "token") * value_BxS


def _straight_through(value_BxS: jax.Array, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """The value, with the derivative x of k2 (verl's names that end in +)."""
    k2_BxS = ESTIMATORS["k2"](log_ratio(logp_BxS, traj))
    return jax.lax.stop_gradient(value_BxS) + (k2_BxS - jax.lax.stop_gradient(k2_BxS))


def _with_score(value_BxS: jax.Array, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """exp(log pi - sg(log pi)) times the value: its derivative plus the value, as E_pi[value] has (NeMo-RL)."""
    return once(masked(logp_BxS, traj.mask)) * value_BxS


# name -> (value, how it is differentiated): c = -1 (k1), -x (k2), -(1 - exp(-x)) (k3), -sign(x) (abs); -x for every
# straight-through one; with the score kept -(1 + x), -(x + x^2/2) and -x.
LOSS_ESTIMATORS: dict[str, tuple[str, Callable[[jax.Array, jax.Array, Trajectories], jax.Array]]] = {
    "k1": ("k1", _own),
    "k2": ("k2", _own),
    "k3": ("k3", _own),
    "k3_ratio": ("k3", _with_ratio),
    "abs": ("abs", _own),
    "k1+": ("k1", _straight_through),
    "k3+": ("k3", _straight_through),
    "abs+": ("abs", _straight_through),
    "k1_score": ("k1", _with_score),
    "k2_score": ("k2", _with_score),
    "k3_score": ("k3", _with_score),
}


def token_kl(logp_BxS: jax.Array, traj: Trajectories, estimator: str) -> jax.Array:
    """f[B, S]: the KL of each token in the loss, by one of `LOSS_ESTIMATORS`."""
    require(estimator in LOSS_ESTIMATORS, "estimator", estimator, LOSS_ESTIMATORS)
    value, differentiated = LOSS_ESTIMATORS[estimator]
    return differentiated(estimate(log_ratio(logp_BxS, traj), value), logp_BxS, traj)


def once(logp_BxS: jax.Array) -> jax.Array:
    """exp(log pi - sg(log pi)): 1, with the derivative of a ratio."""
    return jnp.exp(logp_BxS - jax.lax.stop_gradient(logp_BxS))


def minus_entropy(logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """f[B, S]: log pi of the drawn token, with the derivative log pi + 1 of its expectation (score-function form)."""
    logp_BxS = masked(logp_BxS, traj.mask)
    return once(logp_BxS) * logp_BxS


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

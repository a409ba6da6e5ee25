"""Ratios to the policy that drew the tokens, and the rules that clip them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dsjax.errors import InputError, require
from dsjax.objectives.aggregation import masked
from dsjax.trajectories import Trajectories

# Ratios stop at exp(20) = 5e8, so that float32 stays finite; beyond it they are constant, with gradient 0.
LOG_RATIO_LIMIT = 20.0


def recorded(traj: Trajectories, name: str) -> jax.Array:
    """The optional field of that name (f[B, S]), as data; `InputError` where it is missing."""
    x = getattr(traj, name)
    if x is None:
        raise InputError(name, None, f"trajectories with {name} (f[B, S]): this objective needs them")
    return jax.lax.stop_gradient(x)


def capped_exp(x: jax.Array) -> jax.Array:
    """exp(min(x, LOG_RATIO_LIMIT))."""
    return jnp.exp(jnp.minimum(x, LOG_RATIO_LIMIT))


def _token(log_rho_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    del traj
    return log_rho_BxS


def _sequence(log_rho_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    del traj
    return jnp.broadcast_to(jnp.sum(log_rho_BxS, axis=-1, keepdims=True), log_rho_BxS.shape)


def _geometric(log_rho_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    return _sequence(log_rho_BxS, traj) / jnp.maximum(traj.num_tokens, 1.0)[:, None]


RATIOS: dict[str, Callable[[jax.Array, Trajectories], jax.Array]] = {
    "token": _token,  # rho_it = pi(y_it)/pi_old(y_it)
    "sequence": _sequence,  # prod_t rho_it, on every token
    "geometric": _geometric,  # (prod_t rho_it)^(1/T_i), on every token
}


def ratio(logp_BxS: jax.Array, traj: Trajectories, kind: str) -> jax.Array:
    """f[B, S]: pi/pi_old of the token, the sequence, or their geometric mean over the sequence's tokens.

    A ratio of a whole sequence stands on each of its tokens. Its mean over them (`sequence_mean`) is that one ratio,
    and its gradient reaches every token alike.
    """
    require(kind in RATIOS, "ratio", kind, ["none", *RATIOS])
    log_rho_BxS = masked(logp_BxS - recorded(traj, "old_logp"), traj.mask)
    return capped_exp(RATIOS[kind](log_rho_BxS, traj))


ClipRule = Callable[[jax.Array, jax.Array, jax.Array, float, float], jax.Array]


def _unclipped(rho: jax.Array, A: jax.Array, logp: jax.Array, low: float, high: float) -> jax.Array:
    del logp, low, high
    return -rho * A


def _ppo(rho: jax.Array, A: jax.Array, logp: jax.Array, low: float, high: float) -> jax.Array:
    del logp
    return -jnp.minimum(rho * A, jnp.clip(rho, low, high) * A)


def _cispo(rho: jax.Array, A: jax.Array, logp: jax.Array, low: float, high: float) -> jax.Array:
    return -jax.lax.stop_gradient(jnp.clip(rho, low, high)) * A * logp


CLIP_RULES: dict[str, ClipRule] = {
    "none": _unclipped,  # -rho A
    "ppo": _ppo,  # -min(rho A, clip(rho) A): no gradient from a ratio that has moved too far the right way
    "cispo": _cispo,  # -sg(clip(rho)) A log pi: every token keeps a gradient
}

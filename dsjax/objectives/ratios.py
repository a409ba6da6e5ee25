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


def _summed(x_BxS: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.sum(x_BxS, axis=-1, keepdims=True), x_BxS.shape)


RATIOS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {  # log rho_BxS and T_Bx1 -> log of the ratio
    "token": lambda log_rho, T: log_rho,  # rho_it = pi(y_it)/pi_old(y_it)
    "sequence": lambda log_rho, T: _summed(log_rho),  # prod_t rho_it, on every token
    "geometric": lambda log_rho, T: _summed(log_rho) / T,  # (prod_t rho_it)^(1/T_i), on every token
}


def ratio(logp_BxS: jax.Array, traj: Trajectories, kind: str) -> jax.Array:
    """f[B, S]: pi/pi_old of the token, the sequence, or their geometric mean over the sequence's tokens.

    A ratio of a whole sequence stands on each of its tokens. Its mean over them (`sequence_mean`) is that one ratio,
    and its gradient reaches every token alike.
    """
    require(kind in RATIOS, "ratio", kind, ["none", *RATIOS])
    log_rho_BxS = masked(logp_BxS - recorded(traj, "old_logp"), traj.mask)
    log_ratio_BxS = RATIOS[kind](log_rho_BxS, jnp.maximum(traj.num_tokens, 1.0)[:, None])
    return jnp.exp(jnp.minimum(log_ratio_BxS, LOG_RATIO_LIMIT))


# Ratio, advantage, log-prob, lower and upper bound -> loss of each token.
CLIP_RULES: dict[str, Callable[[jax.Array, jax.Array, jax.Array, float, float], jax.Array]] = {
    "none": lambda rho, A, logp, low, high: -rho * A,
    # No gradient from a ratio that has moved too far the right way.
    "ppo": lambda rho, A, logp, low, high: -jnp.minimum(rho * A, jnp.clip(rho, low, high) * A),
    # Every token keeps a gradient.
    "cispo": lambda rho, A, logp, low, high: -jax.lax.stop_gradient(jnp.clip(rho, low, high)) * A * logp,
}

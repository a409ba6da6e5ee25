"""From per-token values to (sum, count): the named normalisers.

Every function takes `value_BxS` and returns (sum, count), both weighted by the trajectories' law, so that losses of
micro-batches or devices combine as (total sum) / (total count).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.trajectories import Trajectories

SumCount = tuple[jax.Array, jax.Array]


def masked(value_BxS: jax.Array, mask_BxS: jax.Array) -> jax.Array:
    """Zero outside of the mask, whatever stands there, in the value and (double-where) in the gradient."""
    return jnp.where(mask_BxS, value_BxS, 0.0)


def sequence_sum(value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """Mean over sequences of the sum over tokens: sum_i w_i sum_t v_it / sum_i w_i."""
    total_B = jnp.sum(masked(value_BxS, traj.mask), axis=-1)
    return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight)


def sequence_mean(value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """Mean over sequences of the mean over tokens: sum_i w_i (sum_t v_it / T_i) / sum_i w_i; T_i = 0 counts as 0."""
    total_B = jnp.sum(masked(value_BxS, traj.mask), axis=-1)
    return jnp.sum(traj.weight * total_B / jnp.maximum(traj.num_tokens, 1.0)), jnp.sum(traj.weight)


def token_mean(value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """Mean over tokens: sum_i w_i sum_t v_it / sum_i w_i T_i."""
    total_B = jnp.sum(masked(value_BxS, traj.mask), axis=-1)
    return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight * traj.num_tokens)


def constant(value_BxS: jax.Array, traj: Trajectories, *, max_tokens: int | None = None) -> SumCount:
    """Sum over tokens by a constant: sum_i w_i sum_t v_it / (Lmax sum_i w_i) (Dr.GRPO).

    Lmax = `max_tokens`, by default S, the length of the token axis. Give it where micro-batches differ in S.
    """
    longest = traj.tokens.shape[-1] if max_tokens is None else max_tokens
    require(longest >= 1, "max_tokens", max_tokens, "at least 1")
    total, mass = sequence_sum(value_BxS, traj)
    return total, longest * mass


AGGREGATIONS: dict[str, Callable[..., SumCount]] = {
    "sequence_sum": sequence_sum,
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "constant": constant,
}


def aggregate(value_BxS: jax.Array, traj: Trajectories, how: str, max_tokens: int | None = None) -> SumCount:
    """Apply the aggregation of that name; `max_tokens` belongs to `constant` alone."""
    require(how in AGGREGATIONS, "aggregation", how, AGGREGATIONS)
    require(max_tokens is None or how == "constant", "max_tokens", max_tokens, "None, unless aggregation = constant")
    reduce = partial(constant, max_tokens=max_tokens) if how == "constant" else AGGREGATIONS[how]
    return reduce(value_BxS, traj)

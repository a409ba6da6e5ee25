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
from dsjax.numerics import divide
from dsjax.trajectories import Trajectories, is_concrete

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


def given_count(value_BxS: jax.Array, traj: Trajectories, *, tokens_per_sequence: float | jax.Array) -> SumCount:
    """Sum over tokens by a count that the caller has: sum_i w_i sum_t v_it / (n sum_i w_i), n = N/B whatever is drawn.

    With n = the batch's loss tokens over its sequences it is `token_mean`, in every part of the batch. TRL
    (`num_items_in_batch`), verl (`batch_num_tokens`), NeMo-RL (`global_valid_toks`), open-instruct.
    """
    positive = not is_concrete(tokens_per_sequence) or bool(tokens_per_sequence > 0)
    require(positive, "tokens_per_sequence", tokens_per_sequence, "> 0")
    total, mass = sequence_sum(value_BxS, traj)
    return total, tokens_per_sequence * mass


def _over_drawn(aggregation: Callable[..., SumCount], value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    total, _ = aggregation(value_BxS, traj)
    return total, jnp.sum(jnp.where(traj.num_tokens > 0, traj.weight, 0.0))


def nonempty_sequence_sum(value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """`sequence_sum` over the sequences that have a loss token: sum_i w_i sum_t v_it / sum_i w_i 1[T_i > 0] (verl)."""
    return _over_drawn(sequence_sum, value_BxS, traj)


def nonempty_sequence_mean(value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """`sequence_mean` over the sequences with a loss token: sum_i w_i (sum_t v_it / T_i) / sum_i w_i 1[T_i > 0] (verl).

    A sequence without one is left out, where `sequence_mean` counts it as 0 (TRL).
    """
    return _over_drawn(sequence_mean, value_BxS, traj)


def prompt_mean(value_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """Mean over prompts of the mean over the tokens of the group: sum_q (sum_i w_i sum_t v_it / sum_i w_i T_i) / Q.

    i runs over the group of prompt q, Q is the number of groups with weight; on an exact law a prompt counts with its
    probability. SkyRL (`prompt_mean`).
    """
    total_B = jnp.sum(masked(value_BxS, traj.mask), axis=-1)
    over_group = partial(jax.ops.segment_sum, segment_ids=traj.group, num_segments=traj.num_groups)
    mass_Q = over_group(traj.weight)
    mean_Q = divide(over_group(traj.weight * total_B), over_group(traj.weight * traj.num_tokens))
    prompt_Q = mass_Q if traj.exact else (mass_Q > 0).astype(mass_Q.dtype)
    return jnp.sum(prompt_Q * mean_Q), jnp.sum(prompt_Q)


AGGREGATIONS: dict[str, Callable[..., SumCount]] = {
    "sequence_sum": sequence_sum,
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "constant": constant,
    "given_count": given_count,
    "nonempty_sequence_sum": nonempty_sequence_sum,
    "nonempty_sequence_mean": nonempty_sequence_mean,
    "prompt_mean": prompt_mean,
}


def aggregate(
    value_BxS: jax.Array,
    traj: Trajectories,
    how: str,
    max_tokens: int | None = None,
    tokens_per_sequence: float | jax.Array | None = None,
) -> SumCount:
    """The aggregation of that name; `max_tokens` belongs to `constant`, `tokens_per_sequence` to `given_count`."""
    require(how in AGGREGATIONS, "aggregation", how, AGGREGATIONS)
    require(max_tokens is None or how == "constant", "max_tokens", max_tokens, "None, unless aggregation = constant")
    counted = (tokens_per_sequence is not None) == (how == "given_count")
    allowed = "a number for aggregation = given_count, None for others"
    require(counted, "tokens_per_sequence", tokens_per_sequence, allowed)
    options = {"max_tokens": max_tokens, "tokens_per_sequence": tokens_per_sequence}
    given = {name: value for name, value in options.items() if value is not None}
    return AGGREGATIONS[how](value_BxS, traj, **given)

"""Advantages that differ from token to token: returns-to-go, GAE, and a baseline per turn that is biased.

Each takes token rewards f[B, S], or returns f[B] that are then paid at the last drawn token, and gives f[B, S], zero
where no token was drawn. Steps go from one drawn token to the next. Batch-wide statistics are those of the law.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives.aggregation import masked
from dsjax.objectives.ratios import recorded
from dsjax.trajectories import Trajectories


def token_rewards(reward: jax.Array, traj: Trajectories) -> jax.Array:
    """f[B, S]: returns f[B] paid at the last drawn token, token rewards f[B, S] as they are; 0 elsewhere."""
    if reward.ndim == 1:
        from_here_BxS = jax.lax.cumsum(traj.mask.astype(jnp.int32), axis=1, reverse=True)
        return jnp.where(traj.mask & (from_here_BxS == 1), reward[:, None], 0.0)
    return masked(reward, traj.mask)


def _backward(
    reward_BxS: jax.Array, value_BxS: jax.Array, traj: Trajectories, discount: float, decay: float
) -> jax.Array:
    """A_t = (r_t + discount V_{t+1} - V_t) + decay A_{t+1} over drawn tokens; V and A are 0 after the last one."""

    def step(carry: tuple[jax.Array, jax.Array], now: tuple[jax.Array, jax.Array, jax.Array]):
        v_tp1, A_tp1 = carry
        r_t, v_t, drawn_t = now
        A_t = (r_t + discount * v_tp1 - v_t) + decay * A_tp1
        return (jnp.where(drawn_t, v_t, v_tp1), jnp.where(drawn_t, A_t, A_tp1)), jnp.where(drawn_t, A_t, 0.0)

    end_B = jnp.zeros_like(traj.reward)
    inputs = (reward_BxS.T, value_BxS.T, traj.mask.T)
    return jax.lax.scan(step, (end_B, end_B), inputs, reverse=True)[1].T


def whitened(x_BxS: jax.Array, traj: Trajectories, epsilon: float | jax.Array = 1e-8) -> jax.Array:
    """(x - mean)/sqrt(var + epsilon) over all drawn tokens of the batch; 0 where all of them are equal.

    A sequence enters mean and variance with its number of tokens, so the baseline is weighted by length. Exact law:
    the limit of a large batch.
    """
    weight_BxS = jnp.where(traj.mask, traj.weight[:, None], 0.0)
    mass = jnp.sum(weight_BxS)
    mass = jnp.where(mass > 0, mass, 1.0)
    centred_BxS = masked(x_BxS - jnp.sum(weight_BxS * x_BxS) / mass, traj.mask)
    variance = jnp.sum(weight_BxS * centred_BxS**2) / mass
    seen_BxS = weight_BxS > 0
    spread = jnp.max(jnp.where(seen_BxS, x_BxS, -jnp.inf)) > jnp.min(jnp.where(seen_BxS, x_BxS, jnp.inf))
    std = jnp.sqrt(jnp.where(spread, variance + jnp.asarray(epsilon, x_BxS.dtype), 1.0))
    return jnp.where(spread, centred_BxS / std, 0.0)


def _require_unit(**options: float) -> None:
    for name, value in options.items():
        require(0 <= value <= 1, name, value, "[0, 1]")


def returns_to_go(
    reward: jax.Array, traj: Trajectories, *, discount: float = 1.0, whiten: bool = False, epsilon: float = 1e-8
) -> jax.Array:
    """A_t = r_t + discount r_{t+1} + ..; with `whiten`, over all tokens of the batch (REINFORCE++)."""
    _require_unit(discount=discount)
    reward_BxS = token_rewards(reward, traj)
    A_BxS = _backward(reward_BxS, jnp.zeros_like(reward_BxS), traj, discount, discount)
    return whitened(A_BxS, traj, epsilon) if whiten else A_BxS


def gae(
    reward: jax.Array,
    traj: Trajectories,
    *,
    discount: float = 1.0,
    gae_lambda: float = 1.0,
    whiten: bool = False,
    epsilon: float = 1e-8,
) -> jax.Array:
    """Generalised advantage estimation with `traj.values`; Schulman et al. (2016).

    delta_t = r_t + discount V_{t+1} - V_t; A_t = sum_k (discount lambda)^k delta_{t+k}. Undiscounted, lambda = 1 gives
    R - V_t and lambda = 0 the one-step differences: with exact values the causal advantage of each token.
    """
    _require_unit(discount=discount, gae_lambda=gae_lambda)
    value_BxS = masked(recorded(traj, "values"), traj.mask)
    A_BxS = _backward(token_rewards(reward, traj), value_BxS, traj, discount, discount * gae_lambda)
    return whitened(A_BxS, traj, epsilon) if whiten else A_BxS


def biased_per_turn(reward: jax.Array, traj: Trajectories) -> jax.Array:
    """Turn rewards centred by turn index, then summed over the turns to go: BIASED, offered to show it.

    A = sum over turns k' >= k of (r_k' - b_k'), b_k' the mean reward of turn k' over the members of the group that
    reached it (exact law: of the prompt, the limit of a large group). A policy that stops earlier has fewer b_k'
    subtracted, so they act as a cost of b_k' on every later turn: the expected gradient is that of
    E[R - sum_{k <= tau} b_k] with b held fixed, not that of E[R]. A baseline on the tokens of its own turn alone
    would do no harm.
    """
    reward_BxS = token_rewards(reward, traj)
    S = reward_BxS.shape[1]
    never = jnp.iinfo(jnp.int32).max
    turn_BxS = jnp.where(traj.mask, traj.round.astype(jnp.int32), never)
    later_BxS = jax.lax.cummin(turn_BxS, axis=1, reverse=True)  # turns do not decrease along the token axis
    next_BxS = jnp.concatenate([later_BxS[:, 1:], jnp.full_like(later_BxS[:, :1], never)], axis=1)
    last_BxS = traj.mask & (traj.round < next_BxS)  # the last drawn token of its turn
    turns = traj.num_groups * S  # there are at most S turns
    index_BxS = traj.group[:, None] * S + traj.round

    def total(x_BxS: jax.Array, mask_BxS: jax.Array) -> jax.Array:
        weighted_BxS = jnp.where(mask_BxS, traj.weight[:, None] * x_BxS, 0.0)
        return jax.ops.segment_sum(weighted_BxS.ravel(), index_BxS.ravel(), turns)

    reached = total(jnp.ones_like(reward_BxS), last_BxS)
    b = divide(total(reward_BxS, traj.mask), reached)
    return returns_to_go(reward_BxS - jnp.where(last_BxS, b[index_BxS], 0.0), traj)


TOKEN_ADVANTAGES = {"returns_to_go": returns_to_go, "gae": gae, "biased_per_turn": biased_per_turn}

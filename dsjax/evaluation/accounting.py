"""What the sampler and the decider each bring to final accuracy: the log-odds identity (T10) and the Shapley split.

Memoryless attempts at one prompt: p = P(right), a = P(STOP | right), b = P(STOP | wrong), horizon T. The functions
are elementwise and take NumPy or JAX arrays alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsjax.errors import require

Array = Any


def final_accuracy(p: Array, a: Array, b: Array, rounds: int) -> jax.Array:
    """acc_T = p a (1 - rho^(T-1))/(1 - rho) + rho^(T-1) p with rho = 1 - p a - (1 - p) b (T10).

    The geometric sum is added up term by term, so that rho = 1 (never stops) needs no special case.

    Args:
      p: accuracy of one attempt.
      a: P(STOP | right).
      b: P(STOP | wrong).
      rounds: T >= 1; the attempt of round T is kept whatever the decider says.
    """
    require(rounds >= 1, "rounds", rounds, "T >= 1")
    p, a, b = (jnp.asarray(x, float) for x in (p, a, b))
    rho = 1.0 - p * a - (1.0 - p) * b

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        total, alive = carry
        return (total + alive * p * a, alive * rho), None

    start = (jnp.zeros_like(rho), jnp.ones_like(rho))
    (total, alive), _ = jax.lax.scan(step, start, length=rounds - 1)
    return total + alive * p


def mean_rounds(p: Array, a: Array, b: Array, rounds: int) -> jax.Array:
    """E[tau] = 1 + rho + .. + rho^(T-1): attempts per problem."""
    require(rounds >= 1, "rounds", rounds, "T >= 1")
    p, a, b = (jnp.asarray(x, float) for x in (p, a, b))
    rho = 1.0 - p * a - (1.0 - p) * b
    total, alive = jnp.zeros_like(rho), jnp.ones_like(rho)
    for _ in range(rounds):
        total, alive = total + alive, alive * rho
    return total


def logit(x: Array) -> jax.Array:
    """log(x / (1 - x)), nats; infinite at 0 and 1."""
    x = jnp.asarray(x, float)
    return jnp.log(x) - jnp.log1p(-x)


def limit_log_odds(p: Array, a: Array, b: Array) -> jax.Array:
    """logit of the accuracy as T grows: logit(p) + log(a / b), nats (T10)."""
    return logit(p) + jnp.log(jnp.asarray(a, float)) - jnp.log(jnp.asarray(b, float))


class Shapley(NamedTuple):
    """The two components' parts of a change; `sampler + decider` is the whole change."""

    sampler: Array
    decider: Array


def shapley(value: Callable[[Any, Any], Array], base: tuple[Any, Any], new: tuple[Any, Any]) -> Shapley:
    """Split value(new) - value(base) over {sampler, decider}: the mean over both orders of swapping them in.

    Args:
      value: function of (sampler, decider), e.g. final accuracy or its logit.
      base: (sampler, decider) before.
      new: (sampler, decider) after.
    """
    v00, v11 = value(base[0], base[1]), value(new[0], new[1])
    v10, v01 = value(new[0], base[1]), value(base[0], new[1])
    return Shapley(sampler=0.5 * ((v10 - v00) + (v11 - v01)), decider=0.5 * ((v01 - v00) + (v11 - v10)))

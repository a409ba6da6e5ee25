"""What only a model tells, in JAX: score norms from logits, and projected gradients of both components; for `jit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.policies.base import Params, vjp_again


def token_scores(
    logits: jax.Array,
    tokens: jax.Array,
    *,
    stop: int | None = None,
    temperature: float = 1.0,
    head: Callable[[jax.Array], jax.Array] | None = None,
    chunk: int = 1024,
) -> dict[str, jax.Array]:
    """`logp`, `score_norm` and, with `stop`, `stop_logp` of tokens, float32 [B, S] each, for a file of rollouts.

    Equation, accuracy and arguments as of `dsjax.adapters.torch_model.token_scores`.
    """

    def one(row: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        z, v = row
        z_V = (z if head is None else head(z)).astype(jnp.float32) / temperature
        drawn, others_V = z_V[v], jnp.arange(z_V.size) != v
        rest_V = jnp.where(others_V, z_V, -jnp.inf)
        top = jnp.maximum(jnp.max(rest_V), jnp.finfo(jnp.float32).min)  # finite where every other logit is -inf
        e_V = jnp.exp(rest_V - top)
        others = jnp.sum(e_V)
        log_others = top + jnp.log(others)
        log_total = jnp.logaddexp(drawn, log_others)
        found = {
            "logp": -jax.nn.softplus(log_others - drawn),
            "score_norm": jnp.exp(top - log_total) * jnp.sqrt(others**2 + jnp.sum(e_V * e_V)),
        }
        return found if stop is None else {**found, "stop_logp": jnp.minimum(z_V[stop] - log_total, 0.0)}

    flat = jax.lax.stop_gradient((logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1)))
    return {name: x.reshape(tokens.shape) for name, x in jax.lax.map(one, flat, batch_size=chunk).items()}


def component_gradients(
    logp_fn: Callable[[Params], jax.Array],
    params: Params,
    coefficients: jax.Array,
    sample_mask: jax.Array,
    decision_mask: jax.Array,
    *,
    size: int | None = 1024,
    seed: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """(g_s, g_d) of one unit, projected: `g_c = sum over the tokens of c of c_it grad logp_it`, the ascent direction.

    Args:
      logp_fn: parameters to log-probs f[b, S] of the unit's rows, nats, finite everywhere.
      params: where to measure.
      coefficients: [b, S] of these rows in the loss of the whole batch (`dsjax.coefficients`).
      sample_mask: bool[b, S].
      decision_mask: bool[b, S].
      size: m, coordinates kept; None keeps them all.
      seed: of the projection; the same for all units.

    Returns:
      f[m] twice, for `gradient_arrays`.
    """
    logp, pull = vjp_again(logp_fn, params)
    masks = (sample_mask, decision_mask)
    _, (g_s, g_d) = pull(tuple(jnp.where(mask, coefficients.astype(logp.dtype), 0.0) for mask in masks))
    return sketch(g_s, size, seed), sketch(g_d, size, seed)


def sketch(tree: Any, size: int | None = 1024, seed: int = 0) -> jax.Array:
    """R g, f[m], of a pytree: a random projection, as `dsjax.adapters.torch_model.sketch` says, whose R is another."""
    if size is None:
        return ravel_pytree(tree)[0]
    total = jnp.zeros(size)
    for index, g in enumerate(jax.tree.leaves(tree)):
        draw = jax.random.randint(jax.random.fold_in(jax.random.key(seed), index), (g.size,), 0, 2 * size)
        signed = jnp.where(draw % 2 == 0, g.reshape(-1), -g.reshape(-1))
        total = total + jax.ops.segment_sum(signed.astype(total.dtype), draw // 2, size)
    return total

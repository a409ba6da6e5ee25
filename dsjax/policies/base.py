"""What every policy provides: the two conditional laws `pi_sample` and `pi_d`, as functions of a parameter pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from dsjax.trajectories import Trajectories

Params = Any
Pull = Callable[[tuple[jax.Array, ...]], tuple[jax.Array, tuple[Params, ...]]]  # cotangents to (values, gradients)
History = Literal["none", "full"]


class Policy(Protocol):
    """A pure-functional policy with explicit components.

    `log_dists` is teacher-forced: entry [b, k, j] conditions on prompt b, tokens < j of answer k and, with history
    `full`, on answers < k (each of which was followed by RESAMPLE).
    """

    @property
    def length(self) -> int:
        """L, tokens per answer."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Random parameters."""
        ...

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(log pi_sample [B, K, L, V], log pi_d [B, K, 2]) in nats, normalised over the last axis."""
        ...


def select(log_dist: jax.Array, index: jax.Array) -> jax.Array:
    """log_dist[..., index]: the chosen entry of the last axis.

    A sum against a one-hot instead of a gather, whose transpose would be a scatter (slow on every backend).
    """
    chosen = jax.nn.one_hot(index, log_dist.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(chosen, log_dist, 0.0), axis=-1)


def log_probs(policy: Policy, params: Params, traj: Trajectories) -> jax.Array:
    """logp_BxS in nats of every token of `traj`, chosen from `log_dists`; exactly 0 outside of the masks.

    Zero is the log-probability of an event that is certain: a forced stop, or nothing at all after a stop.
    """
    L = policy.length
    answers_BxKxL = traj.answers(L)
    log_sample, log_decision = policy.log_dists(params, traj.prompt, answers_BxKxL)
    decision_BxK = traj.blocks(traj.tokens, L)[..., L]
    logp_BxKxL1 = jnp.concatenate(
        [select(log_sample, answers_BxKxL), select(log_decision, decision_BxK)[..., None]], axis=-1
    )
    return jnp.where(traj.mask, logp_BxKxL1.reshape(traj.tokens.shape), 0.0)


def vjp_again(function: Callable[[Params], jax.Array], params: Params) -> tuple[jax.Array, Pull]:
    """(values, pull): `jax.vjp` of one argument in the form of `log_probs_vjp`."""
    values, vjp = jax.vjp(function, params)
    return values, lambda cotangents: (values, tuple(vjp(c)[0] for c in cotangents))


def log_probs_vjp(policy: Policy, params: Params, traj: Trajectories) -> tuple[jax.Array, Pull]:
    """(`log_probs`, pull): pull takes cotangents c_BxS and returns the log-probs again and sum c grad logp for each.

    A policy may compute this in its own way. One that recomputes activations for the gradient meets the log-probs a
    second time; who takes them from `pull`, and the cotangents from elsewhere, lets the compiler drop the first pass.
    """
    own = getattr(policy, "log_probs_vjp", None)
    return vjp_again(lambda p: log_probs(policy, p, traj), params) if own is None else own(params, traj)

"""What every policy provides: the two conditional laws `pi_sample` and `pi_d`, as functions of a parameter pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.errors import require
from dsjax.trajectories import Trajectories

Params = Any
Pull = Callable[[tuple[jax.Array, ...]], tuple[jax.Array, tuple[Params, ...]]]  # cotangents to (values, gradients)
History = Literal["none", "full"]


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
class Policy:
    """A pure-functional policy with explicit components; a subclass needs `length`, `init` and `log_dists`.

    A subclass is a frozen dataclass and a pytree, as in `flax.struct`: its fields are arrays or trees of them, or
    `struct.field(pytree_node=False)`, which must be hashable.

    Attributes:
      length: L, tokens per answer.
      history: whether a round sees earlier rounds: `none` or `full`.
      attempt_id: the token that opens a round, for policies that read one.
      critic: whether the policy has `values`.
    """

    length: int
    history: History = "none"
    attempt_id: int = 0
    critic: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        struct.dataclass(cls)

    def replace(self, **changes: Any) -> Any:
        """The same policy with other fields."""
        raise NotImplementedError  # every subclass has its own

    def init(self, key: jax.Array) -> Params:
        """Random parameters."""
        raise NotImplementedError

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(log pi_sample f[B, K, L, V], log pi_d f[B, K, 2]) in nats, normalised over the last axis.

        Teacher-forced: entry [b, k, j] conditions on prompt b, tokens < j of answer k and, with history `full`, on
        answers < k (each of which was followed by RESAMPLE).
        """
        raise NotImplementedError

    def values(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> jax.Array:
        """f[B, K, L + 1]: estimates of E[R | all before the factor]: before each answer token, and before the decision.

        Raises:
          InputError: without a critic.
        """
        del params, prompt_BxP, answers_BxKxL
        require(False, "critic", False, "a policy with critic=True")
        raise AssertionError

    def decider_parts(self, params: Params) -> frozenset[str]:
        """Names of the parts of the parameters that `pi_d` alone reads: what may learn while the sampler stays.

        Raises:
          InputError: for a policy that does not say; here none does.
        """
        del params
        require(False, "network", type(self).__name__, "a policy that says which parameters its decider alone reads")
        raise AssertionError

    def log_probs_vjp(self, params: Params, traj: Trajectories) -> tuple[jax.Array, Pull]:
        """(`log_probs`, pull): pull takes cotangents c_BxS, returns the log-probs again and sum c grad logp for each.

        A policy may compute this in its own way. One that recomputes activations for the gradient meets the log-probs a
        second time; who takes them from `pull`, and the cotangents from elsewhere, lets the compiler drop the first.
        """
        return vjp_again(lambda p: log_probs(self, p, traj), params)

    def start(self, params: Params, prompt_BxP: jax.Array, rounds: int) -> Any:
        """Decoding state after the prompt, with room for `rounds` rounds: here the prompt and empty answers."""
        del params
        return prompt_BxP, jnp.zeros((prompt_BxP.shape[0], rounds, self.length), jnp.int32)

    def step(
        self, params: Params, state: Any, ids_Bxn: jax.Array, first_round: Any, offset: Any, rounds: int
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Feed one token to each of n consecutive rounds at `offset`.

        By a full forward pass: slow, but right for every policy, and the reference for those that keep a cache.

        Args:
          params: parameters.
          state: from `start` or the last step.
          ids_Bxn: the tokens at `offset` of rounds first_round .. first_round + n - 1 (`attempt_id` at offset 0).
          first_round: may be traced.
          offset: may be traced.
          rounds: the `rounds` given to `start` (static).

        Returns:
          (log pi_sample f[B, n, V], log pi_d f[B, n, 2], state).
        """
        del rounds
        prompt_BxP, answers = state
        n = ids_Bxn.shape[1]
        at = tuple(jnp.asarray(i, jnp.int32) for i in (0, first_round, jnp.maximum(offset - 1, 0)))
        written = jax.lax.dynamic_update_slice(answers, ids_Bxn[..., None].astype(jnp.int32), at)
        answers = jnp.where(offset > 0, written, answers)
        log_s, log_d = self.log_dists(params, prompt_BxP, answers)
        log_s = jax.lax.dynamic_slice_in_dim(log_s, first_round, n, axis=1)
        log_d = jax.lax.dynamic_slice_in_dim(log_d, first_round, n, axis=1)
        here = jax.lax.dynamic_index_in_dim(log_s, jnp.minimum(offset, self.length - 1), axis=2, keepdims=False)
        return here, log_d, (prompt_BxP, answers)


class WrappedPolicy(Policy):
    """A policy made from another one, whose attributes it has; its laws are the subclass's own."""

    base: Any  # a `Policy`

    @property
    def length(self) -> int:
        """L, tokens per answer."""
        return self.base.length

    @property
    def history(self) -> History:
        """What a later round sees of earlier ones."""
        return self.base.history

    @property
    def attempt_id(self) -> int:
        """The token that opens a round."""
        return self.base.attempt_id

    @property
    def critic(self) -> bool:
        """Whether the policy estimates values too."""
        return self.base.critic

    def init(self, key: jax.Array) -> Params:
        """Random parameters of the other policy."""
        return self.base.init(key)

    def decider_parts(self, params: Params) -> frozenset[str]:
        """Those of the other policy."""
        return self.base.decider_parts(params)


def select(log_dist: jax.Array, index: jax.Array) -> jax.Array:
    """log_dist[..., index]: the chosen entry of the last axis.

    A sum against a one-hot instead of a gather, whose transpose would be a scatter (slow on every backend).
    """
    size = log_dist.shape[-1]
    known = isinstance(index, np.ndarray)
    chosen = index[..., None] == np.arange(size) if known else jax.nn.one_hot(index, size, dtype=bool)
    return jnp.sum(jnp.where(chosen, log_dist, 0.0), axis=-1)


def log_probs(policy: Policy, params: Params, traj: Trajectories) -> jax.Array:
    """logp_BxS in nats of every token of `traj`, chosen from `log_dists`; exactly 0 outside of the masks.

    Zero is the log-probability of an event that is certain: a forced stop, or nothing at all after a stop.

    Args:
      policy: any policy.
      params: its parameters.
      traj: B trajectories of S token slots.
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
    """(values, pull): `jax.vjp` of one argument in the form of `Policy.log_probs_vjp`."""
    values, vjp = jax.vjp(function, params)
    return values, lambda cotangents: (values, tuple(vjp(c)[0] for c in cotangents))

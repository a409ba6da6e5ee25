"""Any function as a policy: the way in for networks of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.errors import require
from dsjax.policies.base import History, Params, Policy


class FunctionPolicy(Policy):
    """A policy from a function, such as the `apply` of any network: three lines for a module of Flax.

    Linen, with a module that maps (prompt i32[B, P], answers i32[B, K, L]) to the two laws:

        policy = FunctionPolicy(module.apply, length=L, initial=lambda key: module.init(key, prompt, answers))

    NNX, split in its structure and its parameters:

        graph, params = nnx.split(Net(nnx.Rngs(0)))
        policy = FunctionPolicy(lambda params, *inputs: nnx.merge(graph, params)(*inputs), length=L)

    Attributes:
      apply: (params, prompt i32[B, P], answers i32[B, K, L]) to logits, or log-probs, f[B, K, L, V] and f[B, K, 2]. It
        must be causal as `Policy.log_dists` says: entry j sees the tokens before j alone.
      length: L.
      initial: key to parameters, for `init`.
      history: what a round sees of earlier ones; with `none` nothing may depend on them.
    """

    apply: Callable[..., Any] = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)
    initial: Callable[[jax.Array], Params] | None = struct.field(pytree_node=False, default=None)
    history: History = struct.field(pytree_node=False, default="none")

    def init(self, key: jax.Array) -> Params:
        """Parameters by `initial`.

        Raises:
          InputError: without it.
        """
        require(self.initial is not None, "initial", None, "a function from a key to parameters")
        assert self.initial is not None
        return self.initial(key)

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The function's laws, normalised.

        Raises:
          InputError: if it returns anything but two arrays of these shapes.
        """
        laws, field = self.apply(params, prompt_BxP, answers_BxKxL), "apply of the policy"
        B, K, L = answers_BxKxL.shape
        allowed = f"two arrays f[{B}, {K}, {L}, V] and f[{B}, {K}, 2]"
        require(isinstance(laws, tuple | list) and len(laws) == 2, field, type(laws).__name__, allowed)
        shapes = jnp.shape(laws[0]), jnp.shape(laws[1])
        fits = len(shapes[0]) == 4 and shapes[0][:3] == (B, K, L) and shapes[1] == (B, K, 2)
        require(fits, field, shapes, allowed)
        return jax.nn.log_softmax(laws[0]), jax.nn.log_softmax(laws[1])

"""Tabular policies for exact work: saturated, position-wise, and shared-parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.errors import require
from dsjax.policies.base import History, Params, Policy, WrappedPolicy
from dsjax.trajectories import namespace

if TYPE_CHECKING:
    from dsjax.process import DecisionSamplingProcess


def _geometric(base: int, terms: int) -> int:
    """1 + base + .. + base^(terms - 1)."""
    return sum(base**i for i in range(terms))


def _prefix_codes(answers_BxKxL: jax.Array, vocabulary: int) -> jax.Array:
    """i32[B, K, L + 1]: the value of the first j tokens read as a base-V number, j = 0..L."""
    L = answers_BxKxL.shape[-1]
    xp = namespace(answers_BxKxL)
    codes = [xp.zeros(answers_BxKxL.shape[:-1], np.int32)]
    for j in range(L):
        codes.append(codes[-1] * vocabulary + answers_BxKxL[..., j])
    return xp.stack(codes, axis=-1)


def _looked_up(table: jax.Array, *index: Any) -> jax.Array:
    """table[index]: a row of the last axis for each of the indices, which are within bounds and broadcast."""
    sizes = table.shape[:-1]
    place = index[0]
    for at, size in zip(index[1:], sizes[1:], strict=True):
        place = place * size + at
    return table.reshape(-1, table.shape[-1]).at[place].get(mode="promise_in_bounds", wrap_negative_indices=False)


class SaturatedPolicy(Policy):
    """One free softmax per context: the policy class in which T3 holds with equality.

    Sampler context: (prompt, history, tokens of the answer so far); decider context: (prompt, history, answer).
    params = {"sample": f[Q, H_s, C, V], "decision": f[Q, H_d, A, 2]} logits, with C = 1 + V + .. + V^(L-1) prefixes
    and, for history `full`, H_s = 1 + A + .. + A^(T-1) and H_d = 1 + A + .. + A^(T-2) histories (both 1 for `none`).
    """

    num_prompts: int = struct.field(pytree_node=False)  # Q
    vocabulary: int = struct.field(pytree_node=False)  # V
    length: int = struct.field(pytree_node=False)  # L
    rounds: int = struct.field(pytree_node=False)  # T
    history: History = struct.field(pytree_node=False, default="none")  # whether a round sees earlier ones: `full`

    @classmethod
    def for_process(cls, process: DecisionSamplingProcess) -> SaturatedPolicy:
        """The saturated policy of a process."""
        return cls(process.num_prompts, process.vocabulary, process.length, process.rounds, process.history)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the two logit tables."""
        A = self.vocabulary**self.length
        full = self.history == "full"
        histories = _geometric(A, self.rounds) if full else 1
        decided = _geometric(A, max(self.rounds - 1, 1)) if full else 1
        prefixes = _geometric(self.vocabulary, self.length)
        return {
            "sample": (self.num_prompts, histories, prefixes, self.vocabulary),
            "decision": (self.num_prompts, decided, A, 2),
        }

    def init(self, key: jax.Array, scale: float = 1.0) -> Params:
        """Independent normal logits with standard deviation `scale`, in the default float dtype."""
        shapes = self.shapes()
        keys = jax.random.split(key, len(shapes))
        return {
            name: scale * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`; the prompt is its index, P = 1."""
        V, L, K = self.vocabulary, self.length, answers_BxKxL.shape[1]
        xp = namespace(prompt_BxP, answers_BxKxL)
        codes_BxKxL1 = _prefix_codes(answers_BxKxL, V)
        answer_BxK = codes_BxKxL1[..., L]
        prompt_Bx1 = prompt_BxP[:, :1]
        if self.history == "full":
            histories, past = [], xp.zeros_like(answer_BxK[:, 0])
            for k in range(K):
                histories.append(past + _geometric(V**L, k))
                past = past * V**L + answer_BxK[:, k]
            history_BxK = xp.stack(histories, axis=-1)
        else:
            history_BxK = xp.zeros_like(answer_BxK)
        first_L = np.asarray([_geometric(V, j) for j in range(L)], np.int32)
        context_BxKxL = codes_BxKxL1[..., :L] + first_L[None, None, :]
        logits_s = _looked_up(params["sample"], prompt_Bx1[..., None], history_BxK[..., None], context_BxKxL)
        # The forced stop of the last round has no context of its own; whatever is read there is masked out.
        decided_BxK = xp.minimum(history_BxK, params["decision"].shape[1] - 1)
        logits_d = _looked_up(params["decision"], prompt_Bx1, decided_BxK, answer_BxK)
        return jax.nn.log_softmax(logits_s), jax.nn.log_softmax(logits_d)


class PositionwisePolicy(Policy):
    """Answer tokens independent given prompt and position; the decider reads the first `reads` tokens only.

    Small at any length: params = {"sample": f[Q, L, V], "decision": f[Q, V^reads, 2]} logits. Memoryless.
    """

    num_prompts: int = struct.field(pytree_node=False)  # Q
    vocabulary: int = struct.field(pytree_node=False)  # V
    length: int = struct.field(pytree_node=False)  # L
    reads: int = struct.field(pytree_node=False, default=1)  # how many tokens the decider reads, 0..L

    def init(self, key: jax.Array, scale: float = 1.0) -> Params:
        """Independent normal logits with standard deviation `scale`."""
        require(0 <= self.reads <= self.length, "reads", self.reads, f"0..{self.length}")
        sample_key, decide_key = jax.random.split(key)
        Q, V = self.num_prompts, self.vocabulary
        return {
            "sample": scale * jax.random.normal(sample_key, (Q, self.length, V)),
            "decision": scale * jax.random.normal(decide_key, (Q, V**self.reads, 2)),
        }

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`; the prompt is its index, P = 1."""
        prompt_B, (B, K, L) = prompt_BxP[:, 0], answers_BxKxL.shape
        read_BxK = _prefix_codes(answers_BxKxL, self.vocabulary)[..., self.reads]
        logits_s = jnp.broadcast_to(params["sample"][prompt_B][:, None], (B, K, L, self.vocabulary))
        logits_d = _looked_up(params["decision"], prompt_B[:, None], read_BxK)
        return jax.nn.log_softmax(logits_s), jax.nn.log_softmax(logits_d)


class SharedPolicy(WrappedPolicy):
    """Both components read one parameter vector: logits of `base` = features @ theta.

    The simplest policy that is neither saturated nor separable, as in a network with a shared trunk.

    Attributes:
      base: the `SaturatedPolicy` whose logits are made.
      features: f[N, K], from the K parameters to the N logits of the base, in `ravel_pytree` order.
    """

    features: jax.Array

    @classmethod
    def random(cls, base: SaturatedPolicy, num_params: int, key: jax.Array) -> SharedPolicy:
        """Gaussian features, scaled so that standard normal parameters give logits of unit variance."""
        size = sum(x.size for x in jax.tree.leaves(jax.eval_shape(base.init, jax.random.key(0))))
        return cls(base, jax.random.normal(key, (size, num_params)) / num_params**0.5)

    def init(self, key: jax.Array) -> Params:
        """Standard normal theta f[K]."""
        return jax.random.normal(key, (self.features.shape[1],), self.features.dtype)

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        template = {n: jnp.zeros(s, self.features.dtype) for n, s in self.base.shapes().items()}
        _, unravel = ravel_pytree(template)
        return self.base.log_dists(unravel(self.features @ params), prompt_BxP, answers_BxKxL)

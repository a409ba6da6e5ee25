"""A decoder-only Flax transformer with a shared trunk and two heads, `pi_sample` and `pi_d`; optionally a critic.

Input of a row: the prompt, then K rounds of [ATTEMPT, y_1, .., y_L]. The output at offset j of a round predicts slot j
of that round's trajectory tokens: answer token j + 1 for j < L, the decision for j = L. Decisions are not fed back: an
earlier round exists only if it was followed by RESAMPLE.

Positions are learned and count offsets inside of the segment (prompt, round), so every round reads with the same
structure. One mask rule serves training and cached decoding: a token sees the prompt, its own round up to itself and,
with history `full`, all earlier rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.errors import require
from dsjax.policies.base import History, Params, Policy
from dsjax.policies.products import Dense, embed, product, widened
from dsjax.tasks.base import Task

Dtype = Literal["float32", "bfloat16"]
Method = TypeVar("Method", bound=Callable[..., Any])
PROMPT = -1  # the "round" of prompt tokens


def _visible(
    round_q: np.ndarray | jax.Array, offset_q: Any, round_k: np.ndarray | jax.Array, offset_k: Any, history: History
) -> jax.Array:
    """bool[Nq, Nk]: which keys a query may attend to."""
    rq, oq, rk, ok = (jnp.asarray(x) for x in (round_q, offset_q, round_k, offset_k))
    own = (rq[:, None] == rk[None, :]) & (ok[None, :] <= oq[:, None])
    prompt = (rk[None, :] == PROMPT) & (rq[:, None] != PROMPT)
    visible = own | prompt
    if history == "full":
        visible = visible | ((rk[None, :] < rq[:, None]) & (rk[None, :] != PROMPT))
    return visible


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) x scale, with the mean in at least float32.

    Flax's own mixes float32 and float64 in a float64 scope, which loses half of the digits there.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = widened(x)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(mean_square + jnp.asarray(self.epsilon, wide.dtype))
        scale = jnp.expand_dims(scale.astype(wide.dtype), tuple(range(x.ndim - 1)))
        return (wide * (factor * scale)).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and MLP, head-major."""

    width: int
    heads: int
    mlp: int

    @nn.compact
    def __call__(
        self, x_BxNxD: jax.Array, visible_QxK: jax.Array, cache: tuple[jax.Array, jax.Array] | None, start: Any
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attend from the N given tokens; with a cache f[B, H, S, Dh], to its slots after writing N at `start`."""
        head = self.width // self.heads
        h = RMSNorm(name="norm_attention")(x_BxNxD)
        qkv = self.param("qkv", nn.initializers.lecun_normal(), (self.width, 3 * self.width))
        B, N, _ = h.shape
        qkv_3xBxHxNxDh = product(h, qkv).reshape(B, N, 3, self.heads, head).transpose(2, 0, 3, 1, 4)
        q, k, v = qkv_3xBxHxNxDh[0], qkv_3xBxHxNxDh[1], qkv_3xBxHxNxDh[2]
        if cache is not None:
            at = tuple(jnp.asarray(i, jnp.int32) for i in (0, 0, start, 0))  # one index type, in float64 scopes too
            k = jax.lax.dynamic_update_slice(cache[0], k, at)
            v = jax.lax.dynamic_update_slice(cache[1], v, at)
        wide = jnp.float64 if q.dtype == jnp.float64 else jnp.float32  # softmax in at least float32
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide) * head**-0.5
        scores = jnp.where(visible_QxK[None, None], scores, jnp.finfo(wide).min)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores).astype(v.dtype), v)
        mixed_BxNxD = mixed.transpose(0, 2, 1, 3).reshape(B, N, self.width)
        x_BxNxD = x_BxNxD + Dense(self.width, use_bias=False, name="out")(mixed_BxNxD)
        h = RMSNorm(name="norm_mlp")(x_BxNxD)
        h = Dense(self.width, name="down")(nn.gelu(Dense(self.mlp, name="up")(h)))
        return x_BxNxD + h, (k, v)


class Trunk(nn.Module):
    """Embeddings and blocks: hidden states of the given tokens."""

    policy: TransformerPolicy

    @nn.compact
    def __call__(
        self, ids_BxN: jax.Array, round_N: Any, offset_N: Any, cache: Params | None = None, start: Any = 0
    ) -> tuple[jax.Array, Params]:
        """(hidden f[B, N, D], cache) for tokens at (round, offset); round `PROMPT` marks the prompt."""
        c = self.policy
        normal = nn.initializers.normal(0.02)
        table = self.param("tokens", normal, (c.num_ids, c.width))
        offsets = self.param("offsets", normal, (c.prompt_length + c.length + 1, c.width))
        round_N, offset_N = jnp.asarray(round_N), jnp.asarray(offset_N)
        x = embed(ids_BxN, table)
        slot_N = jnp.where(round_N == PROMPT, offset_N, offset_N + c.prompt_length)
        x = x + embed(slot_N, offsets)[None]
        if c.history == "full":
            rounds = self.param("rounds", normal, (c.rounds, c.width))
            x = x + embed(round_N, rounds)[None]
        if cache is None:
            round_K, offset_K = round_N, offset_N
        else:
            round_K, offset_K = c.cache_layout(cache[0][0].shape[2])
        visible = _visible(round_N, offset_N, round_K, offset_K, c.history)
        caches = []
        for i in range(c.layers):
            layer_cache = None if cache is None else cache[i]
            x, kv = Block(c.width, c.heads, c.mlp_ratio * c.width, name=f"block_{i}")(x, visible, layer_cache, start)
            caches.append(kv)
        return RMSNorm(name="norm")(x), tuple(caches)


class Network(nn.Module):
    """Trunk(s) and the heads."""

    policy: TransformerPolicy

    def setup(self) -> None:
        """Name the parts; parameters are grouped by them."""
        # `decide` stays in these names: Flax draws initial parameters by name, so with others every run would differ.
        self.trunks = {name: Trunk(self.policy) for name in self.policy.trunks}
        self.sample_head = Dense(self.policy.vocabulary)
        self.decide_head = Dense(2)
        if self.policy.critic:
            # An output a round: without history the trunk cannot tell rounds apart, but what is left to gain differs.
            self.value_head = Dense(self.policy.rounds)

    def __call__(
        self, ids_BxN: jax.Array, round_N: Any, offset_N: Any, cache: Params | None = None, start: Any = 0
    ) -> tuple[jax.Array, jax.Array, Params]:
        """(hidden for pi_sample, hidden for pi_d, cache); both f[B, N, D]."""
        hidden, caches = {}, {}
        for name, trunk in self.trunks.items():
            layer_caches = None if cache is None else cache[name]
            hidden[name], caches[name] = trunk(ids_BxN, round_N, offset_N, layer_caches, start)
        return hidden[self.policy.trunks[0]], hidden[self.policy.trunks[-1]], caches

    def heads(self, h_sample: jax.Array, h_decision: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log-softmax of the two heads, in at least float32."""
        sample, decision = self.sample_head(widened(h_sample)), self.decide_head(widened(h_decision))
        return jax.nn.log_softmax(sample), jax.nn.log_softmax(decision)

    def teacher_forced(self, ids_BxN: jax.Array, round_N: Any, offset_N: Any) -> tuple[jax.Array, jax.Array]:
        """(log pi_sample f[B, K, L, V], log pi_d f[B, K, 2]) from a row of prompt and rounds."""
        return self.heads(*self.factors(ids_BxN, round_N, offset_N))

    def factors(self, ids_BxN: jax.Array, round_N: Any, offset_N: Any) -> tuple[jax.Array, jax.Array]:
        """Hidden states that the factors are predicted from: (answer tokens f[B, K, L, D], decisions f[B, K, D])."""
        c = self.policy
        h_sample, h_decision, _ = self(ids_BxN, round_N, offset_N)

        def rounds(h_BxNxD: jax.Array) -> jax.Array:
            return h_BxNxD[:, c.prompt_length :].reshape(h_BxNxD.shape[0], -1, c.length + 1, c.width)

        return rounds(h_sample)[:, :, : c.length], rounds(h_decision)[:, :, c.length]

    def values(self, ids_BxN: jax.Array, round_N: Any, offset_N: Any) -> jax.Array:
        """f[B, K, L + 1]: output k of the value head on the factors of round k."""
        sample_BxKxLxD, decision_BxKxD = self.factors(ids_BxN, round_N, offset_N)
        hidden = jnp.concatenate([sample_BxKxLxD, decision_BxKxD[:, :, None]], axis=2)
        if self.policy.critic_detached:
            hidden = jax.lax.stop_gradient(hidden)
        by_round = self.value_head(widened(hidden))
        own_KxT = jnp.eye(hidden.shape[1], self.policy.rounds, dtype=bool)
        return jnp.sum(jnp.where(own_KxT[None, :, None], by_round, 0.0), axis=-1)

    def decode(
        self, ids_BxN: jax.Array, round_N: Any, offset_N: Any, cache: Params, start: Any
    ) -> tuple[jax.Array, jax.Array, Params]:
        """Both heads at the given tokens, and the cache with them written at `start`."""
        h_sample, h_decision, cache = self(ids_BxN, round_N, offset_N, cache, start)
        return *self.heads(h_sample, h_decision), cache


def traced_once(*static: str) -> Callable[[Method], Method]:
    """A method that is traced and linearised once a shape, however often a step asks it; XLA puts it in place.

    Args:
      static: arguments that are no arrays, next to `self`.
    """
    return cast(Any, partial(jax.jit, static_argnames=("self", *static)))


class TransformerPolicy(Policy):
    """Configuration of the network and the `Policy` interface on it; all fields are static.

    Answers use token ids 0..vocabulary-1; prompts 0..prompt_vocabulary-1, with the same meaning where both exist.
    """

    prompt_vocabulary: int = struct.field(pytree_node=False)  # number of prompt tokens
    prompt_length: int = struct.field(pytree_node=False)  # P
    vocabulary: int = struct.field(pytree_node=False)  # V
    length: int = struct.field(pytree_node=False)  # L
    rounds: int = struct.field(pytree_node=False)  # T
    layers: int = struct.field(pytree_node=False, default=2)  # of each trunk
    width: int = struct.field(pytree_node=False, default=64)  # D
    heads: int = struct.field(pytree_node=False, default=4)  # of attention
    mlp_ratio: int = struct.field(pytree_node=False, default=4)  # width of the hidden layer over D
    history: History = struct.field(pytree_node=False, default="none")  # whether a round sees earlier ones: `full`
    separate_trunks: bool = struct.field(pytree_node=False, default=False)  # one for each component
    dtype: Dtype = struct.field(pytree_node=False, default="float32")  # of the trunk; float32: that of the parameters
    critic: bool = struct.field(pytree_node=False, default=False)  # a value head on the trunk(s), for `values`
    critic_detached: bool = struct.field(pytree_node=False, default=False)  # it reads the trunk but does not train it

    @classmethod
    def for_task(cls, task: Task, rounds: int, **options: Any) -> TransformerPolicy:
        """The policy with the vocabularies and lengths of a task; `options` are the other fields."""
        return cls(task.prompt_vocabulary, task.prompt_length, task.vocabulary, task.length, rounds, **options)

    @property
    def attempt_id(self) -> int:
        """Id of the ATTEMPT token that opens a round."""
        return max(self.prompt_vocabulary, self.vocabulary)

    @property
    def num_ids(self) -> int:
        """Rows of the embedding table."""
        return self.attempt_id + 1

    @property
    def trunks(self) -> tuple[str, ...]:
        """Names of the trunks: of `pi_sample` and of `pi_d`, or of the one for both."""
        return ("sample", "decide") if self.separate_trunks else ("shared",)

    def decider_parts(self, params: Params) -> frozenset[str]:
        """The decider's head, and its trunk if that is its own."""
        return frozenset({"decide_head", "trunks_decide"} & {*params})

    @property
    def network(self) -> Network:
        """The Flax module."""
        return Network(self)

    def _computed(self, params: Params) -> Params:
        """The parameters as the trunk computes with them; the heads keep theirs."""
        if self.dtype == "float32":
            return params
        low = {name: sub for name, sub in params.items() if name.startswith("trunks")}
        return {**params, **jax.tree.map(lambda x: x.astype(self.dtype), low)}

    def _apply(self, params: Params, *arguments: Any, method: str = "__call__") -> Any:
        params = self._computed(params)
        return self.network.apply({"params": params}, *arguments, method=method)

    def init(self, key: jax.Array) -> Params:
        """Float parameters: {trunks_*, sample_head, decide_head}, and value_head with a critic.

        The critic changes none of the others.

        Raises:
          InputError: if the width cannot be split over the heads, or a critic is detached that is not there.
        """
        require(self.width % self.heads == 0, "width", self.width, f"a multiple of heads = {self.heads}")
        require(self.critic or not self.critic_detached, "critic_detached", True, "False, without a critic")
        ids, round_N, offset_N = self._row(
            jnp.zeros((1, self.prompt_length), jnp.int32), jnp.zeros((1, 1, self.length), jnp.int32)
        )
        params = self.network.init(key, ids, round_N, offset_N, method="teacher_forced")["params"]
        if self.critic:
            params = {**self.network.init(key, ids, round_N, offset_N, method="values")["params"], **params}
        return params

    def _row(self, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, np.ndarray, np.ndarray]:
        B, K, L = answers_BxKxL.shape
        attempt = jnp.full((B, K, 1), self.attempt_id, jnp.int32)
        rounds = jnp.concatenate([attempt, answers_BxKxL.astype(jnp.int32)], axis=-1).reshape(B, K * (L + 1))
        P = self.prompt_length
        round_N = np.concatenate([np.full(P, PROMPT), np.repeat(np.arange(K), L + 1)]).astype(np.int32)
        offset_N = np.concatenate([np.arange(P), np.tile(np.arange(L + 1), K)]).astype(np.int32)
        return jnp.concatenate([prompt_BxP.astype(jnp.int32), rounds], axis=-1), round_N, offset_N

    @traced_once()
    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        return self._apply(params, *self._row(prompt_BxP, answers_BxKxL), method="teacher_forced")

    @traced_once()
    def values(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> jax.Array:
        """See `Policy.values`.

        Teacher-forced, from the hidden state that the factor itself is predicted from: compiled with `log_dists`, both
        share one forward pass.

        Raises:
          InputError: without a critic, or for more rounds than it has outputs.
        """
        require(self.critic, "critic", False, "a policy with critic=True")
        require(answers_BxKxL.shape[1] <= self.rounds, "rounds", answers_BxKxL.shape[1], f"at most {self.rounds}")
        return self._apply(params, *self._row(prompt_BxP, answers_BxKxL), method="values")

    def cache_layout(self, slots: int) -> tuple[np.ndarray, np.ndarray]:
        """(round, offset) of each cache slot: prompt first, then offset-major, so one step's rounds are contiguous."""
        P = self.prompt_length
        rounds = (slots - P) // (self.length + 1)
        slot = np.arange(slots - P)
        round_S = np.concatenate([np.full(P, PROMPT), slot % rounds]).astype(np.int32)
        return round_S, np.concatenate([np.arange(P), slot // rounds]).astype(np.int32)

    @traced_once("rounds")
    def start(self, params: Params, prompt_BxP: jax.Array, rounds: int) -> Params:
        """Decoding state after the prompt: a cache with room for `rounds` rounds."""
        B, P = prompt_BxP.shape
        slots = P + rounds * (self.length + 1)
        dtype = params["sample_head"]["kernel"].dtype if self.dtype == "float32" else jnp.dtype(self.dtype)
        empty = jnp.zeros((B, self.heads, slots, self.width // self.heads), dtype)
        cache = {name: ((empty, empty),) * self.layers for name in self.trunks}
        offset_P = np.arange(P, dtype=np.int32)
        _, _, cache = self._apply(params, prompt_BxP, np.full(P, PROMPT, np.int32), offset_P, cache, 0)
        return cache

    @traced_once("rounds")
    def step(
        self, params: Params, state: Params, ids_Bxn: jax.Array, first_round: Any, offset: Any, rounds: int
    ) -> tuple[jax.Array, jax.Array, Params]:
        """See `Policy.step`; the state is the cache."""
        n = ids_Bxn.shape[1]
        round_n = jnp.arange(n, dtype=jnp.int32) + first_round
        offset_n = jnp.full((n,), offset, jnp.int32)
        start = self.prompt_length + offset * rounds + first_round
        return self._apply(params, ids_Bxn, round_n, offset_n, state, start, method="decode")

"""Random processes with policies: pure functions of a key and a static shape, so that `vmap` makes a batch of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.policies import History, Params, SaturatedPolicy, SharedPolicy, TransformerPolicy, WrappedPolicy
from dsjax.process import DecisionSamplingProcess, Tables, Values, Visitation
from dsjax.trajectories import Trajectories
from proofs_check import closed_forms

MANY = 300  # trajectories up to which an instance costs little


@dataclass(frozen=True)
class Shape:
    """Everything static about an instance: one shape is one compiled program."""

    rounds: int  # T
    length: int  # L
    vocabulary: int  # V
    prompts: int = 1  # Q
    history: History = "full"
    graded: bool = False  # verifier uniform in [0, 1] instead of binary
    cost: bool = False  # c uniform in [0.05, 0.3] instead of 0
    shared: int = 0  # parameters that both components read; 0: saturated
    network: bool = False  # a small transformer instead of tables (Level 2)

    @property
    def saturated(self) -> bool:
        """One free softmax per context."""
        return not self.shared and not self.network

    @property
    def sampler_sees(self) -> bool:
        """Whether tables have a softmax of the sampler for each context *and round*: no softmax serves two rounds."""
        return self.history == "full" or self.rounds == 1

    @property
    def decider_sees(self) -> bool:
        """The same of the decider, which does not act in round T."""
        return self.history == "full" or self.rounds <= 2

    @property
    def share(self) -> float:
        """Part of the instances that it gets: fewer of what costs far more or says less.

        Many trajectories and networks cost more; one round has no decision.
        """
        answers = self.vocabulary**self.length
        trajectories = self.prompts * sum(answers**t for t in range(1, self.rounds + 1))
        return (0.5 if self.network or self.rounds == 1 else 1.0) * min(1.0, MANY / trajectories)

    def __str__(self) -> str:
        parts = [f"T={self.rounds} L={self.length} V={self.vocabulary} Q={self.prompts} history={self.history}"]
        parts.append("graded" if self.graded else "binary")
        parts.append("c>0" if self.cost else "c=0")
        parts.append("transformer" if self.network else f"shared({self.shared})" if self.shared else "saturated")
        return " ".join(parts)


class Instance(struct.PyTreeNode):
    """A process, a policy at random parameters, and nearby parameters as reference."""

    process: DecisionSamplingProcess
    policy: Any  # a `dsjax.policies.Policy`; a SharedPolicy carries its random features
    params: Params
    reference: Params  # pi_ref: the parameters plus noise, so that log-ratios are of order one
    key: jax.Array  # for what only one theorem needs (a demonstrator's law, a re-encoding, ..)
    shape: Shape = struct.field(pytree_node=False)


class _Known:
    """Arrays whose values are at hand, as a static argument: equal by their values."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays
        self._key = tuple((x.shape, x.dtype.str, x.tobytes()) for x in arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@partial(jax.jit, static_argnums=2)
def _log_dists(policy: Any, params: Params, known: _Known) -> Any:
    return policy.log_dists(params, *known.arrays)


@jax.jit
def _log_dists_of(policy: Any, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> Any:
    return policy.log_dists(params, prompt_BxP, answers_BxKxL)


class Traced(WrappedPolicy):
    """The same policy, traced once a shape: a check asks for its log-probs many times."""

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        if isinstance(prompt_BxP, np.ndarray) and isinstance(answers_BxKxL, np.ndarray):
            return _log_dists(self.base, params, _Known(prompt_BxP, answers_BxKxL))
        return _log_dists_of(self.base, params, prompt_BxP, answers_BxKxL)


class FreeDecider(WrappedPolicy):
    """`base` with a free logit more for each decision context: a saturated decider on any policy's law.

    params = {"base": those of `base`, "decision": f[Q, H_d, A, 2] logits on top of its own}: so the gradient on
    "decision" is that on the decision logits which the policy puts out, context by context.
    """

    table: SaturatedPolicy

    def init(self, key: jax.Array) -> Params:
        """Parameters of both."""
        base_key, table_key = jax.random.split(key)
        return {"base": self.base.init(base_key), "decision": self.table.init(table_key)["decision"]}

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        log_sample, log_decision = self.base.log_dists(params["base"], prompt_BxP, answers_BxKxL)
        unused = jnp.zeros(self.table.shapes()["sample"], params["decision"].dtype)
        _, free = self.table.log_dists({"sample": unused, "decision": params["decision"]}, prompt_BxP, answers_BxKxL)
        return log_sample, jax.nn.log_softmax(log_decision + free)


def saturated(process: DecisionSamplingProcess) -> Traced:
    """The saturated policy of a process."""
    return Traced(SaturatedPolicy.for_process(process))


class Numbers:
    """Random numbers handed out one array after the other, all from one call: generators are long programs.

    Normal ones by Box and Muller: the polynomials of `jax.random.normal` would be copied into whatever reads a number.
    """

    def __init__(self, key: jax.Array, normals: int, uniforms: int) -> None:
        x, y, self._uniform = jnp.split(jax.random.uniform(key, (2 * normals + uniforms,)), [normals, 2 * normals])
        self._normal = jnp.sqrt(-2.0 * jnp.log1p(-x)) * jnp.cos(2.0 * jnp.pi * y)

    def normal(self, *shape: int) -> jax.Array:
        """Standard normal."""
        count = math.prod(shape)
        out, self._normal = self._normal[:count], self._normal[count:]
        assert out.size == count
        return out.reshape(shape)

    def uniform(self, *shape: int) -> jax.Array:
        """Uniform in [0, 1)."""
        count = math.prod(shape)
        out, self._uniform = self._uniform[:count], self._uniform[count:]
        assert out.size == count
        return out.reshape(shape)


def normal(key: jax.Array, *shape: int) -> jax.Array:
    """Standard normal numbers; see `Numbers`."""
    return Numbers(key, math.prod(shape), 0).normal(*shape)


def binary_table(coins: jax.Array, order: jax.Array) -> jax.Array:
    """f[Q, A] in {0, 1} from two uniform ones: fair coins, but one answer is right and another wrong for sure."""
    answers = jnp.arange(coins.shape[-1])[None]
    right = answers == jnp.argmax(order, -1, keepdims=True)
    wrong = answers == jnp.argmin(order, -1, keepdims=True)
    return (((coins < 0.5) | right) & ~wrong).astype(coins.dtype)


def perturbed(key: jax.Array, params: Params, scale: float) -> Params:
    """The parameters plus Gaussian noise of that standard deviation."""
    flat, unravel = ravel_pytree(params)
    return unravel(flat + scale * normal(key, flat.size))


def _process(numbers: Numbers, shape: Shape) -> DecisionSamplingProcess:
    """A random process."""
    size = (shape.prompts, shape.vocabulary**shape.length)
    table = numbers.uniform(*size)
    return DecisionSamplingProcess.create(
        prompt_law=jax.nn.softmax(numbers.normal(shape.prompts)),
        reward_table=table if shape.graded else binary_table(table, numbers.uniform(*size)),
        vocabulary=shape.vocabulary,
        length=shape.length,
        rounds=shape.rounds,
        cost=0.05 + 0.25 * numbers.uniform() if shape.cost else 0.0,
        history=shape.history,
    )


def shape_of(process: DecisionSamplingProcess) -> Shape:
    """The static shape of a given process, with saturated policies."""
    table = np.asarray(process.reward_table)
    return Shape(
        rounds=process.rounds,
        length=process.length,
        vocabulary=process.vocabulary,
        prompts=process.num_prompts,
        history=process.history,
        graded=not np.isin(table, (0.0, 1.0)).all(),
        cost=float(process.cost) > 0,
    )


def small_transformer(shape: Shape) -> TransformerPolicy:
    """One layer of width 4: the same code as a large one, with a Fisher matrix that can be decomposed.

    Not smaller: with two channels the normalisation layers come so close to 0/0 that derivatives explode.
    """
    return TransformerPolicy(
        prompt_vocabulary=shape.prompts,
        prompt_length=1,
        vocabulary=shape.vocabulary,
        length=shape.length,
        rounds=shape.rounds,
        layers=1,
        width=4,
        heads=2,
        mlp_ratio=1,
        history=shape.history,
    )


class _Layout(NamedTuple):
    """What a policy's parameters look like: `tree` is their structure, `scale` their standard deviations."""

    policy: Any
    shapes: tuple[tuple[int, ...], ...]
    scale: tuple[float, ...]
    tree: Any

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def params(self, flat: jax.Array) -> Params:
        ends = [int(n) for n in np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]]
        parts = zip(jnp.split(flat, ends), self.shapes, strict=True)
        return jax.tree.unflatten(self.tree, [part.reshape(shape) for part, shape in parts])


@cache
def _layout(shape: Shape) -> _Layout:
    """The policy of a shape, a random one's base; parameters of a network vary as its inputs' number asks."""
    table = SaturatedPolicy(shape.prompts, shape.vocabulary, shape.length, shape.rounds, history=shape.history)
    policy = small_transformer(shape) if shape.network else table
    with jax.enable_x64(False):  # for its shapes; a network initialises in float32
        leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: policy.init(jax.random.key(0))))
    shapes = tuple(x.shape for x in leaves)
    return _Layout(policy, shapes, tuple(s[0] ** -0.5 if shape.network else 1.0 for s in shapes), tree)


def draw(
    key: jax.Array,
    shape: Shape,
    process: DecisionSamplingProcess | None = None,
    *,
    free_decider: bool = False,
) -> Instance:
    """A random instance in the default float dtype (float64 inside of the runner).

    Args:
      key: of everything random.
      shape: what is static.
      process: a given process of that shape, for random policies on it; a random one by default.
      free_decider: whether a decider that is not saturated gets a free logit for every context.
    """
    number_key, extra_key = jax.random.split(key)
    layout, answers = _layout(shape), shape.prompts * shape.vocabulary**shape.length
    table = SaturatedPolicy(shape.prompts, shape.vocabulary, shape.length, shape.rounds, history=shape.history)
    extra = table.shapes()["decision"] if free_decider and not shape.saturated else None
    features = layout.size * shape.shared
    free = math.prod(extra) if extra else 0
    normals = shape.prompts + features + 2 * (shape.shared or layout.size) + 2 * free
    numbers = Numbers(number_key, normals, 2 * answers + 1)
    drawn = _process(numbers, shape)
    policy = layout.policy
    if shape.shared:
        policy = SharedPolicy(policy, numbers.normal(layout.size, shape.shared) / shape.shared**0.5)
        params = numbers.normal(shape.shared)
        reference = params + 0.5 * numbers.normal(shape.shared)
    else:
        scale = jnp.asarray(np.repeat(layout.scale, [math.prod(s) for s in layout.shapes]))
        flat = scale * numbers.normal(layout.size)
        params, reference = layout.params(flat), layout.params(flat + 0.5 * numbers.normal(layout.size))
    if extra:
        policy = FreeDecider(policy, table)
        decide = numbers.normal(*extra)
        params = {"base": params, "decision": decide}
        reference = {"base": reference, "decision": decide + 0.5 * numbers.normal(*extra)}
    return Instance(drawn if process is None else process, Traced(policy), params, reference, extra_key, shape)


draw_with_free_decider = partial(draw, free_decider=True)


def enumerated(instance: Instance) -> tuple[Trajectories, jax.Array]:
    """Every trajectory with its probability under the policy, and its log-probs f[B, S]."""
    traj = instance.process.enumerate_trajectories(instance.policy, instance.params, static=True)
    assert traj.old_logp is not None
    return traj, traj.old_logp


class Setting:
    """An instance with the exact law of its policy: what claims and controls are measured on.

    Statements add what theirs need. A cached property is computed once, by the first claim that asks for it.
    """

    def __init__(self, instance: Instance):
        self.instance = instance
        self.process, self.policy, self.params = instance.process, instance.policy, instance.params
        self.shape = instance.shape
        self.traj, self.logp = enumerated(instance)

    @cached_property
    def tables(self) -> Tables:
        """The policy's laws by round."""
        return self.process.tables(self.logp)

    @cached_property
    def returns(self) -> jax.Array:
        """f[B]: the return by its definition, from the reward table and the number of rounds."""
        return closed_forms.returns(self.process, self.traj)

    @cached_property
    def values(self) -> Values:
        """Values and advantages of the return."""
        return self.process.values(self.tables, self.returns)

    @cached_property
    def visitation(self) -> Visitation:
        """How often each history and answer is visited."""
        return self.process.visitation(self.tables)

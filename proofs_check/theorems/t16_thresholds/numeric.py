"""T16: a decider that imitates correctness labels and one that maximises reward differ by a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.attribution import component_gradients
from dsjax.evaluation import regret
from dsjax.objectives import sft
from dsjax.policies import PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess, Tables
from proofs_check import instances
from proofs_check.extremes import WITHOUT_REFERENCE
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import gap
from proofs_check.requirements import MEMORYLESS, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

Formula = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Reading:
    """What is static: a memoryless process, and how many tokens of an answer the decider reads."""

    base: Shape
    reads: int

    @property
    def share(self) -> float:
        """See `Shape.share`."""
        return self.base.share

    def __str__(self) -> str:
        return f"{self.base}, decider reads {self.reads}"


class Drawn(struct.PyTreeNode):
    """An instance and how much of its answers the decider reads."""

    instance: Instance
    sizes: Reading = struct.field(pytree_node=False)


def draw(key: jax.Array, sizes: Reading, process: DecisionSamplingProcess | None = None) -> Drawn:
    """A random process with a random sampler."""
    return Drawn(instances.draw(key, sizes.base, process), sizes)


class Setting(instances.Setting):
    """The sampler's law, what the decider sees, and the values of a maximiser of reward.

    Contexts are the first tokens of an answer: U = V^reads a prompt. Laws of decisions are f[Q, U], by round.
    """

    def __init__(self, drawn: Drawn):
        super().__init__(drawn.instance)
        self.sizes, process = drawn.sizes, self.process
        Q, T = process.num_prompts, process.rounds
        self.law = jnp.exp(self.tables.log_sample[0][:, 0])
        self.contexts = process.vocabulary**drawn.sizes.reads
        self.mass = self.law.reshape(Q, self.contexts, -1).sum(-1)
        q = (self.law * process.reward_table).reshape(Q, self.contexts, -1).sum(-1) / self.mass
        self.q = jnp.clip(q, 0.0, 1.0)  # a sum of probabilities over itself can be 1 + EPS

        def going_on(worth: jax.Array) -> jax.Array:
            return jnp.clip(jnp.sum(self.mass * worth, -1), 0.0, 1.0) - process.cost

        # V[t][q]: of going on after round t + 1; the last round is kept whatever it is.
        going = [going_on(self.q)]
        for _ in range(T - 2):
            going.insert(0, going_on(jnp.maximum(self.q, going[0][:, None])))
        self.V = going
        self.best = [(self.q >= V[:, None]).astype(self.q.dtype) for V in going]
        self.imitator = [self.q] * (T - 1)
        self.greedy = [(self.q > 0.5).astype(self.q.dtype)] * (T - 1)

    def value(self, stop: list[jax.Array]) -> jax.Array:
        """Exact return of the sampler with a decider, from the process' own recursion."""
        process = self.process
        Q, A = process.num_prompts, process.num_answers

        def spread(x_QxU: jax.Array, t: int) -> jax.Array:
            """log f[Q, A^t, A]."""
            answers = jnp.repeat(x_QxU, A // self.contexts, axis=1)
            return jnp.log(jnp.broadcast_to(answers[:, None], (Q, A**t, A)))

        log_stop = tuple(spread(x, t) for t, x in enumerate(stop))
        log_resample = tuple(spread(1 - x, t) for t, x in enumerate(stop))
        return process.expected_return(Tables(self.tables.log_sample, log_stop, log_resample))

    def summed(self, per_visit: list[jax.Array], stop: list[jax.Array]) -> jax.Array:
        """Sum over the visits of a decider of a number f[Q, U] a visit."""
        return jnp.sum(self.visits(stop) * jnp.stack(per_visit))

    def visits(self, stop: list[jax.Array]) -> jax.Array:
        """f[T - 1, Q, U]: expected visits of each context by a decider, by round."""
        alive, out = self.process.prompt_law, []
        for s in stop:
            out.append(alive[:, None] * self.mass)
            alive = alive * jnp.sum(self.mass * (1 - s), -1)
        return jnp.stack(out)

    def regrets(self, formula: Formula = regret.of_imitation, extra: jax.Array | float = 0.0) -> list[jax.Array]:
        """The formula at every round; `extra` is added to the value of going on."""
        return [formula(self.q, jnp.broadcast_to(V[:, None] + extra, self.q.shape)) for V in self.V]

    def value_labels(self) -> list[jax.Array]:
        """f[Q, U] by round: part of the answers of a context with `r >= V`, the value of going on."""
        Q, law = self.process.num_prompts, self.law
        chosen = [jnp.where(self.process.reward_table >= V[:, None], law, 0.0) for V in self.V]
        return [x.reshape(Q, self.contexts, -1).sum(-1) / self.mass for x in chosen]

    def lost(self, stop: list[jax.Array]) -> jax.Array:
        """What a decider gets less than the maximiser."""
        return self.value(self.best) - self.value(stop)


def _labelled(s: Setting) -> jax.Array:
    """f[B]: law of the sampler's own answers, labelled: STOP iff right."""
    process, T = s.process, s.process.rounds
    Q, A = process.num_prompts, process.num_answers
    right = process.reward_table
    alive, blocks = process.prompt_law[:, None], []
    for t in range(T):
        reached = alive[..., None] * s.law[:, None]
        stops = reached * right[:, None] if t < T - 1 else reached
        blocks.append(stops)
        alive = (reached - stops).reshape(Q, A ** (t + 1))
    return process.join(tuple(blocks))


def _imitated(s: Setting, stop: jax.Array) -> jax.Array:
    """Largest entry of the decision gradient of SFT on labelled answers, at a decider with these probabilities."""
    process = s.process
    policy = PositionwisePolicy(process.num_prompts, process.vocabulary, process.length, s.sizes.reads)
    logits = jnp.stack([jnp.log(stop), jnp.log1p(-stop)], axis=-1)
    sample = jnp.zeros((process.num_prompts, process.length, process.vocabulary), stop.dtype)
    params = {"sample": sample, "decision": logits}
    traj = process.support(static=True).replace(weight=_labelled(s))
    traj = traj.replace(old_logp=log_probs(policy, params, traj))
    return jnp.max(jnp.abs(component_gradients(policy, params, traj, sft).decision["decision"]))


THEOREM = Theorem(
    STATEMENTS["T16"],
    shapes=(
        Reading(Shape(rounds=3, length=2, vocabulary=3, prompts=2, history="none", graded=True), reads=1),
        Reading(Shape(rounds=4, length=2, vocabulary=2, history="none", graded=True, cost=True), reads=1),
        Reading(Shape(rounds=2, length=4, vocabulary=2, prompts=2, history="none", cost=True), reads=2),
        Reading(Shape(rounds=2, length=2, vocabulary=4, prompts=3, history="none"), reads=0),
        Reading(Shape(rounds=2, length=5, vocabulary=2, history="none"), reads=3),
        Reading(Shape(rounds=3, length=2, vocabulary=2, prompts=2, history="none"), reads=2),
        Reading(Shape(rounds=2, length=6, vocabulary=2, history="none", graded=True, shared=4), reads=1),
    ),
    spared=(WITHOUT_REFERENCE,),
    draw=draw,
    prepare=Setting,
    requires=(MEMORYLESS, RESAMPLES),
    on_process=lambda theorem, shape, process: tuple(Reading(shape, n) for n in range(process.length + 1)),
)


def _partial(sizes: Reading) -> bool:
    """The decider reads some of an answer, so that q is neither 0 nor 1 everywhere."""
    return sizes.reads < sizes.base.length


everywhere, partly = THEOREM.on(), THEOREM.on(_partial)
# A binary verifier can make all that is seen of an answer right or wrong for sure: no regret is left to get wrong.
generic = THEOREM.on(lambda sizes: sizes.base.graded)

imitation = everywhere.equation(
    "J* - J(imitator) = sum over its visits of q (V - q) if q < V, else (1 - q)(q - V)",
    lambda s: gap(s.lost(s.imitator), s.summed(s.regrets(), s.imitator)),
)
everywhere.equation(
    "J* - J(greedy imitator) = sum over its visits of |q - V| for q between 1/2 and V",
    lambda s: gap(s.lost(s.greedy), s.summed(s.regrets(regret.of_greedy), s.greedy)),
)


@everywhere.equation("from a table of q, V and visits by bin: the same regret")
def _table(s: Setting) -> jax.Array:
    q, V = jnp.broadcast_arrays(s.q[None], jnp.stack(s.V)[:, :, None])
    return gap(s.lost(s.imitator), regret.from_table(q.ravel(), V.ravel(), s.visits(s.imitator).ravel()))


maximum = everywhere.equation(
    "STOP iff q >= V: J = E[max(q, V)]",
    lambda s: gap(s.value(s.best), s.process.prompt_law @ jnp.sum(s.mass * jnp.maximum(s.q, s.V[0][:, None]), -1)),
)


@everywhere.inequality("no decider that sees as much gets more")
def _best(s: Setting) -> jax.Array:
    numbers = instances.normal(s.instance.key, len(s.V), *s.q.shape)
    return s.lost(list(jax.nn.sigmoid(2.0 * numbers)))


THEOREM.on(lambda sizes: not _partial(sizes) and not sizes.base.graded and not sizes.base.cost).equation(
    "c = 0: a decider that sees whether an answer is right loses nothing by imitation",
    lambda s: jnp.abs(s.lost(s.imitator)),
)
optimum = partly.equation(
    "SFT on own answers labelled right or wrong: no gradient on pi_d at P(STOP) = q",
    lambda s: _imitated(s, jnp.clip(s.q, 1e-12, 1 - 1e-12)),
)


@THEOREM.on(lambda sizes: not sizes.base.graded and not sizes.base.cost).equation(
    "binary, c = 0, V > 0: labels STOP iff r >= V, answer by answer, are the correctness labels"
)
def _labels(s: Setting) -> jax.Array:
    labels, correct = (jnp.stack(x) for x in (s.value_labels(), s.imitator))
    return gap(jnp.where(jnp.stack(s.V)[..., None] > 0, labels, correct), correct)


generic.control(
    "q (V - q) on both sides of the threshold",
    imitation,
    lambda s: gap(s.lost(s.imitator), s.summed(s.regrets(lambda q, V: q * (V - q)), s.imitator)),
)
THEOREM.on(lambda sizes: sizes.base.graded and not sizes.base.cost).control(
    "(1 - q)(q - V) on both sides of the threshold",
    imitation,
    lambda s: gap(s.lost(s.imitator), s.summed(s.regrets(lambda q, V: (1 - q) * (q - V)), s.imitator)),
)
THEOREM.on(lambda sizes: sizes.base.graded and sizes.base.cost).control(
    "the cost not taken off V",
    imitation,
    lambda s: gap(s.lost(s.imitator), s.summed(s.regrets(extra=s.process.cost), s.imitator)),
)
THEOREM.on(lambda sizes: sizes.base.graded and sizes.base.rounds >= 3).control(
    "regrets summed over the maximiser's visits",
    imitation,
    lambda s: gap(s.lost(s.imitator), s.summed(s.regrets(), s.best)),
)
# Eight contexts of four answers each: some of them has right and wrong answers.
THEOREM.on(lambda sizes: not sizes.base.graded and sizes.reads == 3).control(
    "labels of value, answer by answer, said to reach the maximum",
    maximum,
    lambda s: gap(s.value(s.value_labels()), s.value(s.best)),
)
generic.control(
    "SFT on labels said to end at STOP iff q > 1/2", optimum, lambda s: _imitated(s, jnp.where(s.q > 0.5, 0.99, 0.01))
)

"""T4: how answers are cut into tokens does not change what reward gives to each component."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.attribution import ComponentGradients, component_gradients, energies, euclidean
from dsjax.objectives import reinforce
from dsjax.policies import Params, SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import tree_logits
from proofs_check.extremes import WITHOUT_REFERENCE
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import Requirement
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

SMALL = 80  # logits up to which an instance costs little
MOST = 400  # trajectories with filler: their energies need a Fisher matrix over all contexts


def _with_filler(process: DecisionSamplingProcess) -> int:
    A = process.num_answers * process.vocabulary
    return process.num_prompts * sum(A**t for t in range(1, process.rounds + 1))


SHORT = Requirement(
    f"at most {MOST} trajectories after one filler token", lambda process: _with_filler(process) <= MOST
)


@dataclass(frozen=True)
class Recoding:
    """A process, another token tree for its A answers, and a number of filler tokens to append."""

    base: Shape
    vocabulary: int  # V' with V'^L' = A
    length: int  # L'
    filler: int  # m

    @property
    def share(self) -> float:
        """Part of the instances that it gets, by the size of the process with filler: most of the time goes into that.

        Its Fisher matrices have a row for each logit; see `SaturatedPolicy`.
        """
        longer = replace(self.base, length=self.base.length + self.filler)
        table = SaturatedPolicy(longer.prompts, longer.vocabulary, longer.length, longer.rounds, history=longer.history)
        size = sum(math.prod(shape) for shape in table.shapes().values())
        return longer.share * min(1.0, (SMALL / size) ** 2)

    def __str__(self) -> str:
        return f"{self.base} -> V={self.vocabulary} L={self.length}; filler {self.filler}"


class Recoded(struct.PyTreeNode):
    """An instance with a random relabelling of its answers and a random law of the filler."""

    instance: Instance
    relabelling: jax.Array  # i32[A]: new answer code -> old answer code
    filler_logits: jax.Array  # f[Q, H, A, V^m]: law of the filler in each (longer) history after each answer
    recoding: Recoding = struct.field(pytree_node=False)


class Measurement(NamedTuple):
    """J, energies and gradients of one encoding."""

    J: jax.Array
    E_s: jax.Array
    E_d: jax.Array
    gradients: ComponentGradients


def _histories(shape: Shape, answers: int) -> int:
    return sum(answers**t for t in range(shape.rounds)) if shape.history == "full" else 1


def draw(key: jax.Array, recoding: Recoding, process: DecisionSamplingProcess | None = None) -> Recoded:
    """A random instance (on a given process), relabelling and filler law."""
    base_key, own_key = jax.random.split(key)
    base = recoding.base
    A, F = base.vocabulary**base.length, base.vocabulary**recoding.filler
    filler = (base.prompts, _histories(base, A * F), A, F)
    numbers = instances.Numbers(own_key, math.prod(filler), A)
    relabelling = jnp.argsort(numbers.uniform(A))
    return Recoded(instances.draw(base_key, base, process), relabelling, numbers.normal(*filler), recoding)


def _gradients(process: DecisionSamplingProcess, params: Params) -> tuple[Trajectories, ComponentGradients]:
    policy = instances.saturated(process)
    traj = process.enumerate_trajectories(policy, params, static=True)
    return traj, component_gradients(policy, params, traj, reinforce)


def _measure(process: DecisionSamplingProcess, params: Params) -> Measurement:
    policy = instances.saturated(process)
    traj, gradients = _gradients(process, params)
    assert traj.old_logp is not None
    J = process.expected_return(process.tables(traj.old_logp), traj.reward)
    return Measurement(J, *energies(policy, params, traj, gradients), gradients)


def _on_answers(x: jax.Array, answers: int, rounds: int, index: jax.Array) -> jax.Array:
    """x [Q, H, A, ...] with every answer, also those inside of a history, looked up at index (new code -> old)."""
    Q, H, _, *rest = x.shape
    blocks, start = [], 0
    for t in range(rounds if H > 1 else 1):
        block = x[:, start : start + answers**t].reshape(Q, *[answers] * (t + 1), *rest)
        start += answers**t
        for axis in range(1, t + 2):
            block = jnp.take(block, index, axis=axis)
        blocks.append(block.reshape(Q, -1, index.size, *rest))
    return jnp.concatenate(blocks, axis=1)


class Setting(instances.Setting):
    """The process, its re-encoding (same answer law, other labels, other token tree), and both with filler."""

    def __init__(self, recoded: Recoded):
        super().__init__(recoded.instance)
        self.recoded, self.recoding = recoded, recoded.recoding
        self.answers = self.process.num_answers
        blocks = self.tables.log_sample
        # f[Q, H, A]: log pi_sample(y | h).
        self.answer_law = jnp.concatenate(blocks, axis=1) if self.shape.history == "full" else blocks[0]
        self.base = _measure(self.process, self.params)
        self.other = _measure(*self._recoded())
        self.filled = _measure(*self.with_filler())

    def on_answers(self, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(law of answers, decision logits) with every answer looked up at index (new code -> old)."""
        A, T = self.answers, self.shape.rounds
        return _on_answers(self.answer_law, A, T, index), _on_answers(self.params["decision"], A, T - 1, index)

    def _recoded(self) -> tuple[DecisionSamplingProcess, Params]:
        index = self.recoded.relabelling
        other = self.process.replace(
            reward_table=jnp.take(self.process.reward_table, index, axis=1),
            vocabulary=self.recoding.vocabulary,
            length=self.recoding.length,
        )
        law, decide = self.on_answers(index)
        return other, {"sample": tree_logits(other, law), "decision": decide}

    def with_filler(self, *, verifier: float = 0.0, decider: float = 0.0) -> tuple[DecisionSamplingProcess, Params]:
        """The process with filler appended, and a policy with the same law of what is not filler.

        `verifier`, `decider`: how strongly each reads the filler, against the assumption.
        """
        A, F = self.answers, self.shape.vocabulary**self.recoding.filler
        repeat = jnp.repeat(jnp.arange(A), F)
        first = (jnp.arange(A * F) % F == 0).astype(self.answer_law.dtype)
        longer = self.process.replace(
            reward_table=jnp.take(self.process.reward_table, repeat, axis=1) * (1.0 - verifier * first[None, :]),
            length=self.process.length + self.recoding.filler,
        )
        law, decide = self.on_answers(repeat)
        filler_law = jax.nn.log_softmax(self.recoded.filler_logits)
        on_stop = jnp.asarray([1.0, 0.0])[None, None, None, :]
        return longer, {
            "sample": tree_logits(longer, law + filler_law.reshape(*filler_law.shape[:2], A * F)),
            "decision": decide + decider * first[None, None, :, None] * on_stop,
        }

    def largest_on_filler(self, gradients: ComponentGradients) -> jax.Array:
        """Largest entry of G_s on the logits of filler: the contexts whose prefix is a whole answer or longer."""
        prefixes = sum(self.shape.vocabulary**j for j in range(self.shape.length))
        return jnp.max(jnp.abs(gradients.sample["sample"][:, :, prefixes:]))

    def read_filler(self, **read: float) -> jax.Array:
        """The same where the filler is read."""
        return self.largest_on_filler(_gradients(*self.with_filler(**read))[1])


def on_process(theorem: Theorem, shape: Shape, process: DecisionSamplingProcess) -> tuple[Recoding, ...]:
    """The given process with its answers as single tokens, and with one filler token."""
    del theorem, process
    return (Recoding(shape, vocabulary=shape.vocabulary**shape.length, length=1, filler=1),)


THEOREM = Theorem(
    STATEMENTS["T4"],
    shapes=(
        Recoding(
            Shape(rounds=2, length=2, vocabulary=2, prompts=2, history="none", graded=True, cost=True), 4, 1, filler=1
        ),
        Recoding(Shape(rounds=2, length=2, vocabulary=2), vocabulary=4, length=1, filler=1),
        Recoding(Shape(rounds=2, length=1, vocabulary=4, history="none", graded=True), 2, 2, filler=1),
        # A single token has but one tree: relabelled only, here and in the next two.
        Recoding(Shape(rounds=4, length=1, vocabulary=2, history="none", cost=True), 2, 1, filler=1),
        Recoding(Shape(rounds=1, length=1, vocabulary=5, prompts=2, graded=True), 5, 1, filler=1),
        Recoding(Shape(rounds=3, length=1, vocabulary=3, history="none"), 3, 1, filler=1),
        Recoding(Shape(rounds=2, length=4, vocabulary=2, history="none"), 4, 2, filler=1),
        Recoding(Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True), 32, 1, filler=1),
    ),
    spared=(WITHOUT_REFERENCE,),
    draw=draw,
    on_process=on_process,
    requires=(SHORT,),
    prepare=Setting,
)
everywhere = THEOREM.on()

everywhere.equation("re-encoded answers: same J", lambda s: gap(s.other.J, s.base.J))
_energy = everywhere.equation("re-encoded answers: same E_s", lambda s: gap(s.other.E_s, s.base.E_s), ENERGY)
everywhere.equation("re-encoded answers: same E_d", lambda s: gap(s.other.E_d, s.base.E_d), ENERGY)
everywhere.equation("filler that nothing reads: same J", lambda s: gap(s.filled.J, s.base.J))
everywhere.equation("filler that nothing reads: same E_s", lambda s: gap(s.filled.E_s, s.base.E_s), ENERGY)
everywhere.equation("filler that nothing reads: same E_d", lambda s: gap(s.filled.E_d, s.base.E_d), ENERGY)
# Zero up to the rounding of sums that cancel.
_zero = everywhere.equation(
    "filler that nothing reads: gradient 0 on its logits", lambda s: s.largest_on_filler(s.filled.gradients)
)

everywhere.control("filler that the verifier reads (1% of the reward)", _zero, lambda s: s.read_filler(verifier=0.01))
THEOREM.on(lambda recoding: recoding.base.rounds >= 2).control(
    "filler that the decider reads (logit moved by 0.01)", _zero, lambda s: s.read_filler(decider=0.01)
)


@THEOREM.on(lambda recoding: recoding.length != recoding.base.length).control(
    "Euclidean norm for the energy of pi_sample, re-encoded answers", _energy
)
def _euclidean(s: Setting) -> jax.Array:
    other, base = (euclidean(m.gradients)["norm_sample"] ** 2 for m in (s.other, s.base))
    return gap(other, base)

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
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import ENERGY, SUM, gap
from proofs_check.requirements import Requirement
from proofs_check.theorem import Claim, Control, Measured, Theorem

CLAIMS = (
    Claim("re-encoded answers: same J", SUM),
    Claim("re-encoded answers: same E_s", ENERGY),
    Claim("re-encoded answers: same E_d", ENERGY),
    Claim("filler that nothing reads: same J", SUM),
    Claim("filler that nothing reads: same E_s", ENERGY),
    Claim("filler that nothing reads: same E_d", ENERGY),
    # Zero up to the rounding of sums that cancel.
    Claim("filler that nothing reads: gradient 0 on its logits", SUM),
)
(CODE_J, CODE_S, CODE_D, FILL_J, FILL_S, FILL_D, FILL_0) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("filler that the verifier reads (1% of the reward)", FILL_0),
    Control("filler that the decider reads (logit moved by 0.01)", FILL_0),
    Control("Euclidean norm for the energy of pi_sample, re-encoded answers", CODE_S),
)


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
        return min(longer.share, (SMALL / size) ** 2)

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


class Setting(NamedTuple):
    """What check and control share."""

    recoded: Recoded
    answer_law: jax.Array  # f[Q, H, A] log pi_sample(y | h)
    base: Measurement
    other: Measurement  # re-encoded


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
    traj = process.enumerate_trajectories(policy, params)
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


def prepare(recoded: Recoded) -> Setting:
    """Measure the process and its re-encoding: same answer law, other labels, other token tree."""
    instance, recoding = recoded.instance, recoded.recoding
    process, shape = instance.process, recoding.base
    A, T = process.num_answers, shape.rounds
    _, logp = enumerated(instance)
    blocks = process.tables(logp).log_sample
    answer_law = jnp.concatenate(blocks, axis=1) if shape.history == "full" else blocks[0]
    other = process.replace(
        reward_table=jnp.take(process.reward_table, recoded.relabelling, axis=1),
        vocabulary=recoding.vocabulary,
        length=recoding.length,
    )
    params = {
        "sample": tree_logits(other, _on_answers(answer_law, A, T, recoded.relabelling)),
        "decision": _on_answers(instance.params["decision"], A, T - 1, recoded.relabelling),
    }
    return Setting(recoded, answer_law, _measure(process, instance.params), _measure(other, params))


def _filled(setting: Setting, *, verifier: float = 0.0, decider: float = 0.0) -> tuple[DecisionSamplingProcess, Params]:
    """The process with filler appended, and a policy with the same law of what is not filler.

    `verifier`, `decider`: how strongly each reads the filler, against the assumption.
    """
    recoded, answer_law = setting.recoded, setting.answer_law
    instance, recoding = recoded.instance, recoded.recoding
    process, shape = instance.process, recoding.base
    A, F, T = process.num_answers, shape.vocabulary**recoding.filler, shape.rounds
    repeat = jnp.repeat(jnp.arange(A), F)
    first = (jnp.arange(A * F) % F == 0).astype(answer_law.dtype)
    longer = process.replace(
        reward_table=jnp.take(process.reward_table, repeat, axis=1) * (1.0 - verifier * first[None, :]),
        length=process.length + recoding.filler,
    )
    decide = _on_answers(instance.params["decision"], A, T - 1, repeat)
    filler_law = jax.nn.log_softmax(recoded.filler_logits)
    Q, H = filler_law.shape[:2]
    params = {
        "sample": tree_logits(longer, _on_answers(answer_law, A, T, repeat) + filler_law.reshape(Q, H, A * F)),
        "decision": decide + decider * first[None, None, :, None] * jnp.asarray([1.0, 0.0])[None, None, None, :],
    }
    return longer, params


def _largest_on_filler(setting: Setting, gradients: ComponentGradients) -> jax.Array:
    """Largest entry of G_s on the logits of filler tokens: the contexts whose prefix is a whole answer or longer."""
    shape = setting.recoded.recoding.base
    prefixes = sum(shape.vocabulary**j for j in range(shape.length))
    return jnp.max(jnp.abs(gradients.sample["sample"][:, :, prefixes:]))


def check(setting: Setting) -> dict[str, Measured]:
    """Return and energies in three encodings; gradient of the filler."""
    _, _, base, other = setting
    filled = _measure(*_filled(setting))
    errors = (
        gap(other.J, base.J),
        gap(other.E_s, base.E_s),
        gap(other.E_d, base.E_d),
        gap(filled.J, base.J),
        gap(filled.E_s, base.E_s),
        gap(filled.E_d, base.E_d),
        _largest_on_filler(setting, filled.gradients),
    )
    return {claim.name: Measured(error) for claim, error in zip(CLAIMS, errors, strict=True)}


def control(setting: Setting) -> dict[str, jax.Array]:
    """Filler that is read, and a metric that depends on the encoding."""
    recoded, _, base, other = setting
    recoding, errors = recoded.recoding, {}
    if recoding.length != recoding.base.length:  # else the tree is the same
        norms = [euclidean(m.gradients)["norm_sample"] ** 2 for m in (other, base)]
        errors[CONTROLS[2].name] = gap(norms[0], norms[1])
    read_by = {CONTROLS[0]: {"verifier": 0.01}}
    if recoding.base.rounds >= 2:  # else nothing is decided
        read_by[CONTROLS[1]] = {"decider": 0.01}
    for wrong, read in read_by.items():
        _, gradients = _gradients(*_filled(setting, **read))
        errors[wrong.name] = _largest_on_filler(setting, gradients)
    return errors


def on_process(theorem: Theorem, shape: Shape, process: DecisionSamplingProcess) -> tuple[Recoding, ...]:
    """The given process with its answers as single tokens, and with one filler token."""
    del theorem, process
    return (Recoding(shape, vocabulary=shape.vocabulary**shape.length, length=1, filler=1),)


THEOREM = Theorem(
    id="T4",
    title="Length invariance of reward attribution",
    statement="J, E_s, E_d depend on the law of answers, not on its token tree; unread filler gets gradient 0",
    provenance="[R]",
    assumptions=(
        "saturated policies, with the same answer law in both encodings",
        "Fisher metric: Euclidean norms do change",
        "filler: read neither by the verifier nor by any later factor",
    ),
    shapes=(
        Recoding(Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True), vocabulary=4, length=1, filler=1),
        Recoding(Shape(rounds=3, length=2, vocabulary=2, history="none"), vocabulary=4, length=1, filler=1),
        Recoding(Shape(rounds=2, length=1, vocabulary=4, history="none", graded=True), 2, 2, filler=1),
        # A single token has but one tree: relabelled only.
        Recoding(Shape(rounds=4, length=1, vocabulary=2, history="none", cost=True), 2, 1, filler=1),
        Recoding(Shape(rounds=1, length=1, vocabulary=5, graded=True), 5, 1, filler=1),
        Recoding(Shape(rounds=1, length=2, vocabulary=3, prompts=2), 9, 1, filler=1),
        Recoding(Shape(rounds=1, length=4, vocabulary=2), 4, 2, filler=1),
        Recoding(Shape(rounds=1, length=5, vocabulary=2, history="none", graded=True), 32, 1, filler=1),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "A^s, A^d and the visits are functions of answers, and the scores of a saturated token tree span all "
        "functions of (context, answer) with conditional mean 0, whatever the tree. Filler that nothing reads leaves "
        "the conditional mean of R unchanged when it is revealed: its advantage is 0."
    ),
    draw=draw,
    on_process=on_process,
    requires=(SHORT,),
    prepare=prepare,
    check=check,
    control=control,
)

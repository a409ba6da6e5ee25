"""T21: tokens that share parameters with the decision take its step away from it, though not its gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.attribution import (
    ComponentGradients,
    component_gradients,
    energy,
    fisher,
    gains,
    inner,
    natural_step,
    trajectory_gradients,
)
from dsjax.objectives import reinforce
from dsjax.policies import Params, Policy, WrappedPolicy
from dsjax.process import DecisionSamplingProcess
from proofs_check import instances
from proofs_check.extremes import WITHOUT_REFERENCE, Spared
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import ENERGY, SUM, gap, shortfall
from proofs_check.requirements import RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t04_length_invariance.numeric import SHORT
from proofs_check.theorems.t14_signal_noise.numeric import VARIED, centred

FILLER = (0, 1, 4, 16, 64)  # m of the checks that need no enumeration: F + m Phi
BATCH = 32  # trajectories of an Adam step
WEIGHTS = (0.01, 0.1, 1.0, 10.0)  # of decisions in the objective


@dataclass(frozen=True)
class Filled:
    """What is static about an instance: its shape, and m of the process that is enumerated with filler."""

    base: Shape
    filler: int  # 0: none is enumerated

    @property
    def share(self) -> float:
        """See `Shape.share`."""
        return replace(self.base, length=self.base.length + self.filler).share

    def __str__(self) -> str:
        return f"{self.base}, {self.filler} unread tokens"

    @property
    def ranks(self) -> tuple[int, int]:
        """Free logits of the sampler's and of the decider's contexts."""
        shape = self.base
        A, full = shape.vocabulary**shape.length, shape.history == "full"
        first, decided = (sum(A**t for t in range(n)) if full else 1 for n in (shape.rounds, shape.rounds - 1))
        return shape.prompts * first * (A - 1), shape.prompts * decided * A

    @property
    def apart(self) -> bool:
        """Whether no direction serves both components: parameters of their own, or as many as free logits."""
        return self.base.saturated or self.base.shared >= sum(self.ranks)

    @property
    def crowded(self) -> bool:
        """Fewer parameters than free logits, shared by both components."""
        return 0 < self.base.shared < sum(self.ranks)

    @property
    def loaded(self) -> bool:
        """Whether filler moves every parameter: its contexts have at least as many free logits as there are."""
        A, V = self.base.vocabulary**self.base.length, self.base.vocabulary
        return 0 < self.base.shared <= self.ranks[0] // (A - 1) * (V - 1)


class Drawn(struct.PyTreeNode):
    """An instance and its sizes."""

    instance: Instance
    sizes: Filled = struct.field(pytree_node=False)


def draw(key: jax.Array, sizes: Filled, process: DecisionSamplingProcess | None = None) -> Drawn:
    """A random instance."""
    return Drawn(instances.draw(key, sizes.base, process), sizes)


class Unread(WrappedPolicy):
    """`base`, and after each answer `filler` tokens by the law of the answer's first one, which nothing reads."""

    filler: int = struct.field(pytree_node=False)

    @property
    def length(self) -> int:
        """L + m."""
        return self.base.length + self.filler

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        log_s, log_d = self.base.log_dists(params, prompt_BxP, answers_BxKxL[..., : self.base.length])
        return jnp.concatenate([log_s, *[log_s[:, :, :1]] * self.filler], axis=2), log_d


def with_filler(process: DecisionSamplingProcess, filler: int) -> DecisionSamplingProcess:
    """The process whose verifier reads the first L of L + m tokens."""
    table = jnp.repeat(process.reward_table, process.vocabulary**filler, axis=1)
    return process.replace(reward_table=table, length=process.length + filler)


class Law:
    """A policy on all trajectories of a process, and the reward's component gradients."""

    def __init__(self, process: DecisionSamplingProcess, policy: Policy, params: Params):
        self.policy, self.params = policy, params
        self.traj = process.enumerate_trajectories(policy, params, static=True)
        self.gradients = component_gradients(policy, params, self.traj, reinforce)
        self.square_B = centred(self.traj) ** 2  # w^2, w = R - J

    @cached_property
    def fishers(self) -> tuple[jax.Array, jax.Array]:
        """(F_s, F_d)."""
        return fisher(self.policy, self.params, self.traj)

    @cached_property
    def square(self) -> jax.Array:
        """f[P]: E[g_j^2] of one trajectory's gradient g = w score."""
        traj = self.traj.replace(reward=centred(self.traj))
        g_s, g_d = trajectory_gradients(self.policy, self.params, traj, reinforce)
        return jnp.sum(traj.weight[:, None] * (g_s + g_d) ** 2, axis=0)


class Setting:
    """An instance, what one token of filler adds to it, and the process with m of them where that is enumerated."""

    def __init__(self, drawn: Drawn):
        instance, self.sizes = drawn.instance, drawn.sizes
        self.short = short = Law(instance.process, instance.policy, instance.params)
        if m := self.sizes.filler:
            self.long = Law(with_filler(instance.process, m), Unread(instance.policy, m), instance.params)
        # The Fisher matrices of everything, of the first tokens (Phi), and of those with weight w^2: one Jacobian.
        traj = short.traj
        first_S = jnp.arange(traj.tokens.shape[1]) % (self.sizes.base.length + 1) == 0
        first_BxS, squared_B = traj.sample_mask & first_S[None], traj.weight * short.square_B

        def of(mask_BxS: jax.Array, weight_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            return fisher(short.policy, short.params, traj.replace(sample_mask=mask_BxS, weight=weight_B))

        masks = jnp.stack([traj.sample_mask, first_BxS, first_BxS])
        (F_s, self.Phi, squared), (F_d, _, _) = jax.vmap(of)(masks, jnp.stack([traj.weight, traj.weight, squared_B]))
        self.fishers, self.joint = (F_s, F_d), F_s + F_d
        mean = jnp.sum(squared_B)
        self.Psi, self.unweighted = mean * jnp.diagonal(squared), mean * jnp.diagonal(self.Phi)

    @cached_property
    def energies(self) -> tuple[jax.Array, jax.Array]:
        """(E_s, E_d)."""
        G, (F_s, F_d) = self.short.gradients, self.fishers
        return energy(G.sample, F_s), energy(G.decision, F_d)

    def natural(self, m_M: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(G_s . x, G_d . x) of the natural step x, f[M] each, with these amounts of filler."""
        G = self.short.gradients
        return jax.vmap(lambda m: gains(G, natural_step(G.total, self.joint + m * self.Phi)))(m_M)

    def adam(self, m_M: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same of an Adam step on batches, its running means at their expectation."""
        G = self.short.gradients
        return jax.vmap(lambda m: gains(G, adam_step(G, self.short.square + m * self.Psi, BATCH)))(m_M)

    @cached_property
    def parts(self) -> tuple[jax.Array, jax.Array]:
        """Of the natural step, at every m of FILLER."""
        return self.natural(amounts())

    @cached_property
    def adam_parts(self) -> tuple[jax.Array, jax.Array]:
        """Of the Adam step."""
        return self.adam(amounts())

    def less(self) -> jax.Array:
        """The same decrease where Phi is taken from F, half of it, so that F stays a Fisher matrix."""
        return decrease(jnp.add(*self.natural(jnp.asarray([0.0, -0.5]))))

    @property
    def gain(self) -> jax.Array:
        """f[M]: G . x."""
        return self.parts[0] + self.parts[1]

    @property
    def gap_of_bound(self) -> jax.Array:
        """E_s + E_d - G^T F^+ G."""
        return self.energies[0] + self.energies[1] - self.gain[0]

    @cached_property
    def lost(self) -> tuple[jax.Array, jax.Array]:
        """(u_c - x)^T F_c (u_c - x) of both components."""
        G, (F_s, F_d) = self.short.gradients, self.fishers
        x = natural_step(G.total, self.joint)

        def of(g: Params, F_c: jax.Array) -> jax.Array:
            off, _ = ravel_pytree(jax.tree.map(jnp.subtract, natural_step(g, F_c), x))
            return off @ F_c @ off

        return of(G.sample, F_s), of(G.decision, F_d)

    @cached_property
    def sign(self) -> jax.Array:
        """The decision's part of a sign step at each of WEIGHTS, f[K]."""
        return jax.vmap(lambda weight: sign_part(self.short.gradients, weight))(jnp.asarray(WEIGHTS))


def amounts() -> jax.Array:
    """FILLER."""
    return jnp.asarray(FILLER, float)


def adam_step(gradients: ComponentGradients, square_P: jax.Array, batch: float) -> Params:
    """G_j / sqrt(E[g_j^2]) for the mean g of a batch, from E[g_j^2] of one trajectory; sign(G) as the batch grows."""
    g, unravel = ravel_pytree(gradients.total)
    second = g**2 + (square_P - g**2) / batch
    return unravel(jnp.where(second > 0, g / jnp.sqrt(jnp.where(second > 0, second, 1.0)), 0.0))


def sign_part(gradients: ComponentGradients, weight: float | jax.Array) -> jax.Array:
    """The decision's part of a sign step, G_d . sign(G_s + weight G_d)."""
    step = jax.tree.map(lambda s, d: jnp.sign(s + weight * d), gradients.sample, gradients.decision)
    return inner(gradients.decision, step)


def decrease(gain_M: jax.Array) -> jax.Array:
    """Least fall from one amount of filler to the next, relative to the gain without."""
    return -jnp.max(jnp.diff(gain_M)) / gain_M[0]


def on_process(theorem: Theorem, shape: Shape, process: DecisionSamplingProcess) -> tuple[Filled, ...]:
    """The given process with every kind of policy, and with one token of filler."""
    del process
    kinds = dict.fromkeys((s.base.shared, s.base.network) for s in theorem.shapes if isinstance(s, Filled))
    return tuple(Filled(replace(shape, shared=shared, network=network), 1) for shared, network in kinds)


THEOREM = Theorem(
    STATEMENTS["T21"],
    shapes=(
        Filled(Shape(rounds=2, length=2, vocabulary=2, prompts=2, history="none", shared=5), filler=1),
        Filled(Shape(rounds=2, length=1, vocabulary=4), filler=1),
        Filled(Shape(rounds=2, length=1, vocabulary=2, prompts=2, graded=True, network=True), filler=1),
        Filled(Shape(rounds=3, length=1, vocabulary=5, graded=True, cost=True, shared=3), filler=0),
        Filled(Shape(rounds=4, length=1, vocabulary=2, history="none", shared=4), filler=1),
        Filled(Shape(rounds=2, length=4, vocabulary=2, cost=True, shared=3), filler=1),
        Filled(Shape(rounds=2, length=6, vocabulary=2, history="none", graded=True, shared=3), filler=0),
        Filled(Shape(rounds=2, length=2, vocabulary=3, prompts=2, history="none"), filler=1),
    ),
    spared=(
        WITHOUT_REFERENCE,
        Spared(
            "sharp",
            "few contexts are left in which more than one token is drawn: eigenvalues come near the rank cut",
            ("gain G^T (F + m Phi)^+ G: falls with m",),
        ),
    ),
    draw=draw,
    prepare=Setting,
    on_process=on_process,
    requires=(RESAMPLES, VARIED, SHORT),
    tolerance=ENERGY,
    telling=lambda sizes: not sizes.base.network,
)
tables = THEOREM.on(lambda sizes: not sizes.base.network)
separate = THEOREM.on(lambda sizes: sizes.base.saturated)
apart = THEOREM.on(lambda sizes: sizes.apart)
crowded = THEOREM.on(lambda sizes: sizes.crowded)
filled = THEOREM.on(lambda sizes: sizes.filler > 0)
loaded = THEOREM.on(lambda sizes: sizes.loaded)

# Strictly so on ordinary instances, as the first control says.
crowded.inequality("fewer parameters than free logits: G^T (F_s + F_d)^+ G <= E_s + E_d", lambda s: s.gap_of_bound)
# Small eigenvalues of a network's Fisher matrix, as in T3.
THEOREM.on(lambda sizes: sizes.base.network).equation(
    "transformer: G^T (F_s + F_d)^+ G <= E_s + E_d", lambda s: shortfall(s.gap_of_bound), 1e-8
)
_conflict = tables.equation(
    "E_s + E_d - G^T F^+ G = sum_c (u_c - x)^T F_c (u_c - x), x = F^+ G, u_c = F_c^+ G_c",
    lambda s: gap(s.gap_of_bound, s.lost[0] + s.lost[1]),
)
_equal = apart.equation(
    "no direction serves both: the parts of the common step are E_s and E_d",
    lambda s: gap([x[0] for x in s.parts], s.energies),
)


@filled.equation("unread filler: same G_s, G_d, F_d, and F_s + m Phi", tolerance=SUM)
def _filler(s: Setting) -> jax.Array:
    G, (F_s, F_d), long = s.short.gradients, s.fishers, s.long
    stated = G.sample, G.decision, F_s + s.sizes.filler * s.Phi, F_d
    return gap((long.gradients.sample, long.gradients.decision, *long.fishers), stated)


_falls = tables.inequality("gain G^T (F + m Phi)^+ G: falls with m", lambda s: decrease(s.gain))
tables.inequality(
    "Phi <= F: at least gain(0)/(1 + m)", lambda s: jnp.min(s.gain[1:] - s.gain[0] / (1.0 + amounts()[1:]))
)


@loaded.inequality("Phi loads every direction: m |G_c . x| <= sqrt(G_c^T Phi^+ G_c G^T Phi^+ G) in both components")
def _loaded(s: Setting) -> jax.Array:
    """Relative to the bound, which has the condition of Phi."""
    G, m = s.short.gradients, amounts()
    whole = energy(G.total, s.Phi)
    rows = zip(s.parts, (G.sample, G.decision), strict=True)
    return jnp.min(1.0 - jnp.stack([m * jnp.abs(x) / jnp.sqrt(energy(g, s.Phi) * whole) for x, g in rows]))


_stays = apart.equation(
    "no direction serves both: the decision's part is E_d at every m",
    lambda s: gap(s.parts[1], jnp.broadcast_to(s.energies[1], s.parts[1].shape)),
)
_moments = filled.equation(
    "one trajectory's E[g_j^2] grows by m Psi_j, Psi = E[w^2 sum over attempts of a filler token's score^2]",
    lambda s: gap(s.long.square, s.short.square + s.sizes.filler * s.Psi),
    SUM,
)
tables.inequality("Adam on batches: G . x falls with m", lambda s: decrease(jnp.add(*s.adam_parts)), SUM)
separate.equation(
    "Adam, separate parameters: the decision's part stays",
    lambda s: gap(s.adam_parts[1], jnp.broadcast_to(s.adam_parts[1][0], s.adam_parts[1].shape)),
    SUM,
)
tables.inequality(
    "sign step: G_d . sign(G_s + weight G_d) does not fall in the weight", lambda s: jnp.min(jnp.diff(s.sign)), SUM
)
separate.equation(
    "sign step, separate parameters: the decision's part does not feel the weight of decisions",
    lambda s: gap(s.sign, jnp.broadcast_to(s.sign[0], s.sign.shape)),
    SUM,
)

crowded.control(
    "fewer parameters than free logits: no conflict",
    _conflict,
    lambda s: gap(s.gap_of_bound, jnp.zeros_like(s.gain[0])),
)
crowded.control("conflict: what the decision alone loses", _conflict, lambda s: gap(s.gap_of_bound, s.lost[1]))
tables.control("filler taken from F instead: F less Phi/2", _falls, lambda s: shortfall(s.less()))
filled.control("filler adds nothing to F", _filler, lambda s: gap(s.long.fishers[0], s.fishers[0]))
crowded.control(
    "fewer parameters than free logits: the decision's part does not change with m",
    _stays,
    lambda s: gap(s.parts[1][-1], s.parts[1][0]),
)
filled.control(
    "Psi = E[w^2] Phi", _moments, lambda s: gap(s.long.square, s.short.square + s.sizes.filler * s.unweighted)
)
separate.control(
    "sign step for a natural one: the decision's part is E_d", _equal, lambda s: gap(s.sign[0], s.energies[1])
)

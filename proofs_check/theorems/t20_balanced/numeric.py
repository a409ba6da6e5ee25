"""T20: who has one coefficient a trajectory, and what unread tokens take from the decision's share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.atlas.classes import Classes
from dsjax.attribution import coefficients, energy, fisher, share, token_spread
from dsjax.numerics import divide
from dsjax.objectives import OBJECTIVES, Objective, SumCount, resolve, sft
from dsjax.objectives.aggregation import sequence_sum
from dsjax.objectives.registry import defaults
from dsjax.objectives.returns import loss_and_coefficients
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.coefficients import gradients_of
from proofs_check.extremes import Spared
from proofs_check.filler import Drawn, Filled, Law, draw, with_filler
from proofs_check.instances import Shape
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import MEMORYLESS, MIXED_IF_BINARY, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

# The claim about every registered objective, with its default options. `surrogate` is all of them.
CLASSES = {
    "surrogate": Classes("always", "none"),
    "reinforce": Classes("always", "none"),
    "rloo": Classes("always", "none"),
    "rloo_clipped": Classes("always", "none"),
    "grpo": Classes("on-policy", "tilted"),
    "gspo": Classes("always", "tilted"),
    "dapo": Classes("on-policy", "none"),
    "dr_grpo": Classes("on-policy", "none"),
    "cispo": Classes("on-policy", "none"),
    "ppo": Classes("never", "none"),
    "reinforce_plus_plus": Classes("on-policy", "none"),
    "sapo": Classes("on-policy", "tilted"),
    "gmpo": Classes("on-policy", "tilted"),
    "luspo": Classes("always", "none"),
    "dppo_tv": Classes("on-policy", "none"),
    "dppo_kl": Classes("on-policy", "none"),
    "gpg": Classes("always", "none"),
    "dro": Classes("on-policy", "none"),
    "psr_nsr": Classes("always", "none"),
    "biased_per_turn": Classes("never", "none"),
    "sft": Classes("always", "per token"),
    "sft_sequence_sum": Classes("always", "per token"),
    "rft": Classes("always", "none"),
    "dft": Classes("never", "per token"),
    "dpo": Classes("always", "coupled"),
    "ipo": Classes("always", "coupled"),
    "simpo": Classes("always", "coupled"),
    "kto": Classes("always", "coupled"),
    "distillation": Classes("never", "per token"),
    "own_token_kl": Classes("never", "per token"),
    "trajectory_kl": Classes("always", "per attempt"),
    "entropy_bonus": Classes("never", "per token"),
}
# One of each kind, for (b); the atlas asks all of them.
SHOWN = ("sft", "dft")  # what learns from demonstrations
KINDS = {
    "none": ("reinforce", "dapo", "rft"),
    "tilted": ("grpo",),
    "per token": ("own_token_kl", "entropy_bonus", *SHOWN),
    "per attempt": ("trajectory_kl",),
    "coupled": ("dpo",),
}
MOVES = (0.3, 1.5)  # of log-probs, in units of their own: within the clips and far beyond
DIFFERENT = 1e-6  # relative: no rounding explains it


def named(name: str, shape: Shape) -> Objective:
    """The registered objective; where returns are not 0 and 1 alone it has a baseline that may be so."""
    normalised = (defaults(OBJECTIVES[name]) or {}).get("advantage") == "group_normalised"
    if normalised and (shape.graded or shape.cost):
        return resolve(name, advantage="group_mean")
    return resolve(name, threshold=0.5) if name == "rft" else resolve(name)


def of_class(*coefficients: str) -> list[str]:
    """The registered objectives of these classes of coefficients."""
    return [name for name, found in CLASSES.items() if found.coefficients in coefficients]


def stopped(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """sg(sum_t l_t^2) sum_t l_t: one coefficient on all tokens, but no function of the sum."""
    square_Bx1 = jnp.sum(jnp.where(traj.mask, logp_BxS**2, 0.0), -1, keepdims=True)
    return sequence_sum(jax.lax.stop_gradient(square_Bx1) * logp_BxS, traj)


class Asked(NamedTuple):
    """What an objective says at the policy's log-probs, at two others, and at others of the same sums as the last."""

    loss: jax.Array  # f[4]
    spread: jax.Array  # f[4]
    silent: jax.Array  # bool[4]: no coefficient at all


class Shared(NamedTuple):
    """Energies of one objective with m filler tokens."""

    sample: jax.Array  # E_s without filler
    decision: jax.Array  # E_d
    filler: jax.Array  # what the library says all filler tokens have
    each: jax.Array  # n Var_phi(k) of one
    elsewhere: jax.Array  # the same with the variance under the reference's law

    @property
    def odds(self) -> jax.Array:
        """(1 - share)/share."""
        return (self.sample + self.filler) / self.decision

    @property
    def share(self) -> jax.Array:
        """(iv)."""
        return share(self.decision, self.sample + self.filler)


class Setting:
    """The process with 0, 1, .. filler tokens, under the policy's law and under the reference's as demonstrations."""

    def __init__(self, drawn: Drawn):
        self.drawn, self.sizes = drawn, drawn.sizes
        self.shape = drawn.sizes.base
        law = with_filler(drawn, 0)
        keys = jax.random.split(drawn.instance.key, 4)
        noise = [instances.normal(key, *law.traj.tokens.shape) for key in keys]
        # Values that are wrong everywhere: GAE is asked for its coefficients only.
        self.traj = law.traj.replace(values=noise[0])
        assert self.traj.old_logp is not None
        old, mask = self.traj.old_logp, self.traj.mask
        moved = [old * jnp.exp(size * x) for size, x in zip(MOVES, noise[1:], strict=False)]
        shift = jnp.where(mask, noise[3], 0.0)
        shift = jnp.where(mask, shift - jnp.sum(shift, -1, keepdims=True) / self.traj.num_tokens[:, None], 0.0)
        self.logps = jnp.stack([old, *moved, moved[-1] + shift])

    def ask(self, objective: Objective) -> Asked:
        """An objective at all log-probs."""

        def one(logp_BxS: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            loss, c_BxS = loss_and_coefficients(objective, logp_BxS, self.traj)
            return loss, token_spread(c_BxS, self.traj), jnp.all(c_BxS == 0)

        return Asked(*jax.vmap(one)(self.logps))

    @cached_property
    def asked(self) -> dict[str, Asked]:
        """Every registered objective."""
        return {name: self.ask(named(name, self.shape)) for name in CLASSES}

    def spread(self, *coefficients: str) -> jax.Array:
        """f[N, 4]: largest difference inside of a trajectory, of every registered objective of these classes."""
        return jnp.stack([self.asked[name].spread for name in of_class(*coefficients)])

    @cached_property
    def shared(self) -> tuple[dict[str, Shared], dict[str, Shared]]:
        """Energies by objective, with one filler token less and with all of them."""
        m = self.sizes.filler
        return self._shared(m - 1), self._shared(m)

    def _shared(self, m: int) -> dict[str, Shared]:
        law = with_filler(self.drawn, m)
        assert law.traj.ref_logp is not None
        # Demonstrations: what the reference does. Their log-probs are the policy's all the same.
        shown = law.traj.under(law.traj.ref_logp, law.process.prompt_law[law.traj.prompt[:, 0]])
        own = [name for names in KINDS.values() for name in names if name not in SHOWN]
        return self._energies(law, law.traj, own, m) | self._energies(law, shown, SHOWN, m)

    def _energies(self, law: Law, traj: Trajectories, names: Sequence[str], m: int) -> dict[str, Shared]:
        assert law.traj.old_logp is not None
        c_NxBxS = jnp.stack([coefficients(named(name, self.shape), law.traj.old_logp, traj) for name in names])
        G = gradients_of(law.policy, law.params, traj, c_NxBxS)
        F_s, F_d = fisher(law.policy, law.params, traj)
        read = (jnp.arange(self.shape.length + m) < self.shape.length)[None, None, :, None]
        without = {**G.sample, "sample": jnp.where(read, G.sample["sample"], 0.0)}
        energies = jax.vmap(energy, in_axes=(0, None))
        whole, rest = jnp.split(energies(jax.tree.map(lambda *x: jnp.concatenate(x), G.sample, without), F_s), 2)
        zero = jnp.zeros_like(rest)
        each = jax.vmap(partial(filler_energies, law, traj, self.drawn.filler))(c_NxBxS) if m else (zero, zero)
        found = Shared(rest, energies(G.decision, F_d), whole - rest, *each)
        return {name: Shared(*(x[i] for x in found)) for i, name in enumerate(names)}

    def pairs(self, *kinds: str) -> list[tuple[Shared, Shared]]:
        """The same of all objectives of some kinds."""
        less, more = self.shared
        return [(less[name], more[name]) for kind in kinds for name in KINDS[kind]]


def filler_energies(law: Law, traj: Trajectories, logits: jax.Array, c_BxS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """n Var_phi(k) of the last token of an answer, summed over prompts, and the same under the reference's law."""
    L, V, Q = law.process.length, law.process.vocabulary, law.process.num_prompts
    phi, other = jax.nn.softmax(logits)
    drawn_BxK = traj.blocks(traj.sample_mask, L)[..., L - 1]
    symbol_BxKxV = jax.nn.one_hot(traj.answers(L)[..., L - 1], V, dtype=phi.dtype)
    c_BxK = jnp.where(drawn_BxK, traj.blocks(c_BxS, L)[..., L - 1], 0.0)
    C = jax.ops.segment_sum(jnp.sum(c_BxK[..., None] * symbol_BxKxV, 1), traj.prompt[:, 0], Q)
    draws_B = jnp.sum(drawn_BxK, -1).astype(phi.dtype)
    n = jax.ops.segment_sum(traj.weight * draws_B, traj.prompt[:, 0], Q)[:, None]
    k = divide(C, n * phi[None])

    def variance(law_V: jax.Array) -> jax.Array:
        mean = jnp.sum(law_V[None] * k, -1, keepdims=True)
        return jnp.sum(n * law_V[None] * (k - mean) ** 2)

    return variance(phi), variance(other)


def gaps(found: Iterable[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Largest distance of pairs of numbers."""
    return gap(*map(jnp.stack, zip(*found, strict=True)))


THEOREM = Theorem(
    STATEMENTS["T20"],
    shapes=(
        Filled(Shape(rounds=2, length=1, vocabulary=2, prompts=2, history="none"), filler=2),
        Filled(Shape(rounds=4, length=1, vocabulary=3, history="none"), filler=0),
        Filled(Shape(rounds=2, length=4, vocabulary=2, history="none", graded=True, cost=True), filler=0),
        Filled(Shape(rounds=3, length=1, vocabulary=2, history="none", cost=True), filler=1),
    ),
    draw=draw,
    prepare=Setting,
    spared=(
        Spared(
            "sharp",
            "tokens that are all but certain move by rounding, and energies of what is left cancel in shares",
            (
                "and off-policy different ones, as all other registered objectives",
                "reward, its variants and self-imitation: none, and the share stays",
            ),
        ),
        Spared(
            "same",
            "at its reference the gradient of a KL is zero: there is no share",
            ("KL in the loss, entropy, SFT, DFT: share = E_d/(E_s + E_d + m e_f), e_f fixed",),
        ),
    ),
    requires=(MEMORYLESS, RESAMPLES, MIXED_IF_BINARY),
    on_process=lambda theorem, shape, process: (Filled(shape, 0),),
)
# (a) knows nothing of filler: not again where there is one token of it.
asked = THEOREM.on(lambda sizes: sizes.filler != 1)
filled = THEOREM.on(lambda sizes: sizes.filler > 0)

_always = asked.equation(
    "sequence sums: one coefficient a trajectory at all log-probs, for every registered one of them",
    lambda s: jnp.max(s.spread("always")),
)
asked.equation("token ratios: one coefficient a trajectory on-policy", lambda s: jnp.max(s.spread("on-policy")[:, 0]))


@asked.inequality("and off-policy different ones, as all other registered objectives", strict=True)
def _different(s: Setting) -> jax.Array:
    found = [s.asked[name] for name in of_class("on-policy", "never")]
    return jnp.min(jnp.stack([jnp.where(jnp.all(a.silent[1:]), 1.0, jnp.max(a.spread[1:])) for a in found])) - DIFFERENT


_sums = asked.equation(
    "the same sequence sums: the same loss", lambda s: gaps(s.asked[name].loss[2:] for name in of_class("always"))
)
_added = filled.equation(
    "filler adds m n Var_phi(k) to the energy, for every kind of objective",
    lambda s: gaps((x.filler, s.sizes.filler * x.each) for _, x in s.pairs(*KINDS)),
    ENERGY,
)
filled.equation(
    "reward, its variants and self-imitation: none, and the share stays",
    lambda s: gaps((more.share, less.share) for less, more in s.pairs("none")),
    ENERGY,
)
filled.equation(
    "divided by T_i: none either",
    lambda s: jnp.max(jnp.stack([x.filler for _, x in s.pairs("tilted")])),
    ENERGY,
)


def per_token(s: Setting, kind: str, fillers: float = 1.0) -> jax.Array:
    """Distance of the odds against the decision from those with a token less plus e_f/E_d, both as they were then."""

    def expected(less: Shared, more: Shared) -> jax.Array:
        # Without filler there is no token whose k could be looked at.
        known = less if s.sizes.filler > 1 else more
        return less.odds + fillers * known.each / known.decision

    return gaps((more.odds, expected(less, more)) for less, more in s.pairs(kind))


_fixed = filled.equation(
    "KL in the loss, entropy, SFT, DFT: share = E_d/(E_s + E_d + m e_f), e_f fixed",
    lambda s: per_token(s, "per token"),
    ENERGY,
)

asked.control("GRPO said to be balanced off-policy", _always, lambda s: jnp.max(s.asked["grpo"].spread[1:]))
asked.control("KL in the loss by k2", _always, lambda s: jnp.max(s.asked["own_token_kl"].spread))
asked.control(
    "SFT with weight 2 on decisions", _always, lambda s: jnp.max(s.ask(partial(sft, decision_weight=2.0)).spread)
)
asked.control(
    "equal coefficients with a stop-gradient said to be enough", _sums, lambda s: gap(*s.ask(stopped).loss[2:])
)
asked.control("k2 by sequence sums", _sums, lambda s: gap(*s.asked["own_token_kl"].loss[2:]))
filled.control("e_f left out", _fixed, lambda s: per_token(s, "per token", 0.0))
filled.control("trajectory KL said to give each filler token the same", _fixed, lambda s: per_token(s, "per attempt"))
filled.control("DPO said to give each filler token the same", _fixed, lambda s: per_token(s, "coupled"))
filled.control(
    "Var under the reference's law",
    _added,
    lambda s: gaps((x.filler, s.sizes.filler * x.elsewhere) for _, x in s.pairs("per token")),
)

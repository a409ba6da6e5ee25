"""T22: what a new sampler does to the decider's averages is a term of its own; what a decider keeps under transfer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.evaluation.accounting import final_accuracy, log_odds, shapley, three_terms
from proofs_check import instances
from proofs_check.extremes import WITHOUT_COST, Spared
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import SUM, gap
from proofs_check.requirements import BINARY, FREE, MEMORYLESS, MIXED, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

LONG = 400  # rounds: P(STOP) >= 0.1 below, so zeta^399 < 1e-18
LEAST_STOP = 0.1


def averages(law: jax.Array, right: jax.Array, stop: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(p, a, b), each f[Q], of a sampler's law f[Q, A] with a decider's stop probabilities f[Q, A]."""
    p, wrong = jnp.sum(law * right, -1), jnp.sum(law * (1 - right), -1)
    return p, jnp.sum(law * right * stop, -1) / p, jnp.sum(law * (1 - right) * stop, -1) / wrong


def _moved(old: jax.Array, new: jax.Array, among: jax.Array, stop: jax.Array) -> jax.Array:
    """f[Q]: total variation between the laws of the stop probability, given that the answer is among some."""
    change, other = ((x * among) / jnp.sum(x * among, -1, keepdims=True) for x in (new, old))
    same = (stop[:, :, None] == stop[:, None, :]).astype(stop.dtype)
    return 0.5 * jnp.sum(jnp.abs(jnp.sum(same * (change - other)[:, None, :], -1)) / jnp.sum(same, -1), -1)


class Setting(instances.Setting):
    """Two samplers and two deciders: those of the policy and of its reference."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        process, T = self.process, self.shape.rounds
        other, _ = instances.enumerated(instance.replace(params=instance.reference))
        assert other.old_logp is not None
        both = [self.tables, process.tables(other.old_logp)]
        self.right, self.rounds = process.reward_table, T
        self.samplers = [jnp.exp(tables.log_sample[0][:, 0]) for tables in both]
        self.deciders = [LEAST_STOP + (1 - LEAST_STOP) * jnp.exp(tables.log_stop[0][:, 0]) for tables in both]

    def pair(self, s: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(p, a, b) of a sampler with a decider."""
        return averages(s, self.right, d)

    def parts(self, samplers: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Shapley parts (sampler, decider), f[Q] each, of real swaps after many rounds."""

        def value(s: int, d: int) -> jax.Array:
            right = final_accuracy(*self.pair(samplers[s], self.deciders[d]), LONG)
            return log_odds(right, 1.0 - right)

        return tuple(shapley(value, (0, 0), (1, 1)))

    def terms(self, samplers: list[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(sampler, mix, decider), f[Q] each, of the library."""
        p, a, b = (jnp.stack(x) for x in zip(*(self.pair(s, self.deciders[0]) for s in samplers), strict=True))
        _, a1, b1 = (jnp.stack(x) for x in zip(*(self.pair(s, self.deciders[1]) for s in samplers), strict=True))
        return tuple(three_terms(p, jnp.stack([a, a1], 1), jnp.stack([b, b1], 1)))

    def slack(self, stop: jax.Array, *, right: bool = True, wrong: bool = True) -> jax.Array:
        """Accuracy after the sampler moved, less the bound from before; without e_1 or e_0 where they are left out."""
        old, new = self.samplers
        _, a, b = self.pair(old, stop)
        e_1, e_0 = (_moved(old, new, among, stop) for among in (self.right, 1 - self.right))
        p, a1, b1 = self.pair(new, stop)
        low, high = jnp.maximum(a - e_1, 0.0) if right else a, jnp.minimum(b + e_0, 1.0) if wrong else b
        T, mu = self.rounds, self.process.prompt_law
        return jnp.sum(mu * (final_accuracy(p, a1, b1, T) - final_accuracy(p, low, high, T)))

    def sure(self, *, right: bool) -> jax.Array:
        """f[Q, A] in {0, 1}: the decider for which the move of the sampler is worst, among right or wrong answers.

        It stops where right answers become rarer, or where wrong ones become more frequent, and is right elsewhere.
        """
        old, new = ((x * r) / jnp.sum(x * r, -1, keepdims=True) for x in self.samplers for r in [self._class(right)])
        worse = new < old if right else new > old
        return jnp.where(self._class(right) > 0, worse, self.right > 0).astype(old.dtype)

    def _class(self, right: bool) -> jax.Array:
        return self.right if right else 1 - self.right


THEOREM = Theorem(
    STATEMENTS["T22"],
    shapes=(
        Shape(rounds=2, length=2, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=5, prompts=2, history="none", shared=4),
        Shape(rounds=4, length=1, vocabulary=3, prompts=3, history="none", network=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        *WITHOUT_COST,
        Spared(
            "sharp",
            "1 - acc is a difference: the log-odds of an accuracy near 1 are known to EPS/(1 - acc)",
            ("T -> inf: Shapley parts of real swaps are d logit p + mix, and the mean change of log(a/b)",),
        ),
    ),
    prepare=Setting,
    telling=lambda shape: not shape.network,
    requires=(BINARY, FREE, MEMORYLESS, MIXED, RESAMPLES),
)
everywhere = THEOREM.on()

# acc >= 0.005 and 1 - acc >= 0.005, as random laws of up to 64 answers have: a factor 200 on the rounding of acc.
parts = everywhere.equation(
    "T -> inf: Shapley parts of real swaps are d logit p + mix, and the mean change of log(a/b)",
    lambda s: gap(s.parts(s.samplers), (sum(s.terms(s.samplers)[:2]), s.terms(s.samplers)[2])),
    200 * SUM,
)


@everywhere.equation(
    "a sampler that keeps its laws within right and within wrong answers: mix = 0", tolerance=200 * SUM
)
def _only_p(s: Setting) -> jax.Array:
    old = s.samplers[0]
    favoured = old * (1 + 2 * s.right)
    samplers = [old, favoured / jnp.sum(favoured, -1, keepdims=True)]
    return gap(s.terms(samplers)[1], jnp.zeros_like(s.right[:, 0]))


transfer = everywhere.inequality(
    "accuracy after the sampler moved >= E[acc_T(p', a - e_1, b + e_0)]", lambda s: s.slack(s.deciders[0])
)
everywhere.control(
    "mix left out: the parts are the changes of logit(p) and of log(a/b)",
    parts,
    lambda s: gap(s.parts(s.samplers), (s.terms(s.samplers)[0], s.terms(s.samplers)[2])),
)
everywhere.control(
    "mix given to the decider",
    parts,
    lambda s: gap(s.parts(s.samplers), (s.terms(s.samplers)[0], sum(s.terms(s.samplers)[1:]))),
)
# With 64 answers there are several right and several wrong ones, for which the sampler's law can move.
many = THEOREM.on(lambda shape: shape.vocabulary**shape.length >= 64)
many.control("transfer without e_1", transfer, lambda s: -s.slack(s.sure(right=True), right=False))
many.control("transfer without e_0", transfer, lambda s: -s.slack(s.sure(right=False), wrong=False))

"""T10: what sampler and decider bring to final accuracy adds up in log-odds."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from dsjax.evaluation import accounting
from dsjax.evaluation.components import rates
from proofs_check import instances
from proofs_check.extremes import WITHOUT_COST, WITHOUT_REFERENCE
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import SUM, gap
from proofs_check.requirements import BINARY, FREE, MEMORYLESS, MIXED
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

LONG = 400  # rounds: zeta <= 0.9 below, so zeta^399 < 1e-18


def of(measure: str, weights_N: Any, *law: Any, rounds: int | None = None) -> Any:
    """What is reported as `measure` of N problems with these weights."""
    return accounting.measures(*law, rounds=rounds)[measure](weights_N[None])[0]


def accuracy_of_draws(p: jax.Array, a: jax.Array, b: jax.Array, rounds: int) -> jax.Array:
    """f[Q]: accuracy given the samples of all rounds, averaged over what they may be: 2^T sequences a prompt."""
    right = jnp.asarray(list(product((True, False), repeat=rounds)))

    def of_prompt(p: jax.Array, a: jax.Array, b: jax.Array) -> Any:
        law = jnp.prod(jnp.where(right, p, 1.0 - p), axis=-1)
        return of("accuracy", law, right, jnp.where(right, a, b))

    return jax.vmap(of_prompt)(p, a, b)


class Setting(instances.Setting):
    """p, a, b of each prompt from the policy's first round, and the exact accuracy of the process."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        answer, right = jnp.exp(self.tables.log_sample[0][:, 0]), self.process.reward_table
        self.T, self.mu = self.shape.rounds, self.process.prompt_law
        # T = 1 has no decider; a and b must not matter there, so any will do.
        decides = self.T >= 2
        stop = jnp.exp(self.tables.log_stop[0][:, 0]) if decides else jax.random.uniform(instance.key, right.shape)

        def of_prompt(law_A: Any, right_A: Any, stop_A: Any) -> list[Any]:
            """All answers are the population, weighted by their probabilities."""
            return [rate(law_A[None])[0] for rate in rates(right_A[:, None], stop_A[:, None]).values()]

        # f[Q]: P(right), P(STOP | right), P(STOP | wrong).
        self.p, self.a, self.b = p, a, b = jax.vmap(of_prompt)(answer, right, stop)
        self.accuracy = self.values.V[0][:, 0]  # f[Q] of the enumerated process
        self.acc = accounting.final_accuracy(p, a, b, self.T)
        self.zeta = 1.0 - p * a - (1.0 - p) * b
        self.limit = jax.nn.sigmoid(sum(accounting.limit_parts(p, a, b)))
        self.geometric = sum((self.zeta**i for i in range(self.T - 1)), jnp.zeros_like(self.zeta))
        # Before and after a change, f[2] each: far enough from 0 and 1 for the limit to be reached.
        keys = jax.random.split(instance.key, 3)
        ranges = ((0.05, 0.95), (0.1, 1.0), (0.1, 1.0))
        self.p2, self.a2, self.b2 = (
            jax.random.uniform(k, (2,), minval=lo, maxval=hi) for k, (lo, hi) in zip(keys, ranges, strict=True)
        )

    def closed(self, kept: int) -> jax.Array:
        """p a (1 - zeta^kept)/(1 - zeta), the attempts that end right before the last."""
        return self.p * self.a * (1 - self.zeta**kept) / (1 - self.zeta)

    def log_odds(self, rounds: int) -> jax.Array:
        """f[2, 2] by (sampler, decider), each 0 before the change and 1 after it; one prompt."""

        def of_pair(*law: jax.Array) -> Any:
            return of("log_odds", jnp.ones(1), *(x[None] for x in law), rounds=rounds)

        return jax.vmap(jax.vmap(of_pair, (None, 0, 0)), (0, None, None))(self.p2, self.a2, self.b2)

    def parts(self, rounds: int) -> tuple[Any, jax.Array]:
        """(Shapley parts, the whole change) of the log-odds of accuracy."""
        odds = self.log_odds(rounds)
        return accounting.shapley(lambda s, d: odds[s, d], (0, 0), (1, 1)), odds[1, 1] - odds[0, 0]

    @property
    def stated(self) -> jax.Array:
        """f[2 parts, 2 policies]: logit(p) and log(a/b)."""
        return jnp.stack([jnp.log(self.p2) - jnp.log1p(-self.p2), jnp.log(self.a2) - jnp.log(self.b2)])


THEOREM = Theorem(
    STATEMENTS["T10"],
    shapes=(
        Shape(rounds=2, length=2, vocabulary=3, prompts=3, history="none"),
        Shape(rounds=3, length=1, vocabulary=5, prompts=2, history="none", shared=4),
        Shape(rounds=4, length=1, vocabulary=2, prompts=3, history="none", network=True),
        Shape(rounds=1, length=3, vocabulary=4, prompts=2, history="none"),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=2, length=5, vocabulary=2, history="none"),
        Shape(rounds=2, length=6, vocabulary=2, history="none"),
    ),
    spared=(*WITHOUT_COST, WITHOUT_REFERENCE),
    requires=(BINARY, FREE, MEMORYLESS, MIXED),
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere, resamples = THEOREM.on(), THEOREM.on(lambda shape: shape.rounds >= 2)

everywhere.equation(
    "accuracy of the enumerated process = acc_T(p, a, b), prompt by prompt",
    lambda s: jnp.maximum(gap(s.acc, s.accuracy), gap(accuracy_of_draws(s.p, s.a, s.b, s.T), s.accuracy)),
)
_mean = everywhere.equation(
    "mean over prompts: J = E_q[acc_T(p_q, a_q, b_q)]",
    lambda s: gap(of("accuracy", s.mu, s.p, s.a, s.b, rounds=s.T), s.process.expected_return(s.tables)),
)
# 1 - zeta >= ~0.01 at these logits: dividing by it costs a factor 100 on EPS.
_closed = everywhere.equation(
    "acc_T = p a (1 - zeta^(T-1))/(1 - zeta) + zeta^(T-1) p",
    lambda s: gap(s.acc, s.closed(s.T - 1) + s.zeta ** (s.T - 1) * s.p),
)
_decay = everywhere.equation(
    "acc_T = acc + zeta^(T-1) (p - acc), logit(acc) = logit(p) + log(a/b)",
    lambda s: gap(s.acc, s.limit + s.zeta ** (s.T - 1) * (s.p - s.limit)),
)
everywhere.equation(
    "gain acc_T - p = p (1-p) (a-b) (1 + zeta + .. + zeta^(T-2))",
    lambda s: gap(s.acc - s.p, s.p * (1 - s.p) * (s.a - s.b) * s.geometric),
)
everywhere.equation(
    "mean rounds = 1 + zeta + .. + zeta^(T-1)",
    lambda s: gap(accounting.kept(s.p, s.a, s.b, s.T).rounds, s.geometric + s.zeta ** (s.T - 1)),
)
resamples.inequality(
    "gain > 0 iff a > b, for T >= 2 and 0 < p < 1",
    lambda s: jnp.min((s.acc - s.p) * jnp.sign(s.a - s.b)),
    strict=True,
)


@everywhere.equation("no gain at p = 0, p = 1, a = b or T = 1")
def _no_gain(s: Setting) -> jax.Array:
    zero, one = jnp.zeros_like(s.p), jnp.ones_like(s.p)
    idle = (
        (zero, s.a, s.b, s.T),
        (one, s.a, s.b, s.T),
        (s.p, s.a, s.a, s.T),
        (s.p, zero, zero, s.T),
        (s.p, s.a, s.b, 1),
    )
    return jnp.max(jnp.abs(jnp.stack([accounting.final_accuracy(*at) - at[0] for at in idle])))


# acc >= 0.005 and 1 - acc >= 0.005 for the draws: logits lose a factor 200 on the rounding of acc.
everywhere.equation(
    "T -> inf: logit(acc) = logit(p) + log(a/b)",
    lambda s: gap(jnp.diagonal(s.log_odds(LONG)), jnp.sum(s.stated, axis=0)),
    200 * SUM,
)


@everywhere.equation("Shapley parts add up to the change of logit(acc_T)", tolerance=200 * SUM)
def _adds_up(s: Setting) -> jax.Array:
    parts, change = s.parts(s.T)
    return gap(parts.sampler + parts.decider, change)


@everywhere.equation("T -> inf: Shapley parts are the changes of logit(p) and of log(a/b)", tolerance=200 * SUM)
def _far_parts(s: Setting) -> jax.Array:
    far, _ = s.parts(LONG)
    near = jnp.stack(accounting.limit_parts(s.p2, s.a2, s.b2))
    return jnp.maximum(gap(jnp.stack(far), s.stated[:, 1] - s.stated[:, 0]), gap(near, s.stated))


everywhere.control("forced stop of round T forgotten", _closed, lambda s: gap(s.acc, s.closed(s.T - 1)))
everywhere.control("zeta^T for zeta^(T-1)", _closed, lambda s: gap(s.acc, s.closed(s.T) + s.zeta**s.T * s.p))
everywhere.control("the identity of the limit at finite T", _decay, lambda s: gap(s.acc, s.limit))


@THEOREM.on(lambda shape: shape.prompts >= 2 and shape.rounds >= 2).control(
    "identity at the average prompt (pooled p, a, b)", _mean
)
def _pooled(s: Setting) -> jax.Array:
    p = jnp.sum(s.mu * s.p)
    a, b = jnp.sum(s.mu * s.p * s.a) / p, jnp.sum(s.mu * (1 - s.p) * s.b) / (1 - p)
    return gap(accounting.final_accuracy(p, a, b, s.T), jnp.sum(s.mu * s.accuracy))

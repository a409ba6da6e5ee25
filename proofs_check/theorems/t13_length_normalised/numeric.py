"""T13: dividing a trajectory's loss by its number of tokens moves the threshold at which pi_d is told to stop."""

from __future__ import annotations

from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import coefficients, component_gradients
from dsjax.objectives import Objective, grpo, reinforce
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP
from proofs_check import instances
from proofs_check.closed_forms import by_context, by_decider
from proofs_check.extremes import WITHOUT_REFERENCE, without_pushes
from proofs_check.instances import Instance, Shape, draw_with_free_decider
from proofs_check.numerics import gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t12_grpo.numeric import GROUP, factor

OUTSIDE = -10.0  # a baseline outside of [0, 1]: (1 - b)/(0 - b) = 1.1 is less than n_(t+1)/n_t for all t <= 4

by_length = partial(reinforce, aggregation="sequence_mean")


class Push(NamedTuple):
    """n_t times the push per visit, in two parts, f[Q, A^t, A] by round."""

    plain: list[jax.Array]  # r - V_(t+1) + c: that of T8
    tilt: list[jax.Array]  # D

    def total(self) -> list[jax.Array]:
        """Both."""
        return [x + d for x, d in zip(self.plain, self.tilt, strict=True)]


def _lengths(process: DecisionSamplingProcess, forced: int = 0) -> list[int]:
    """n_1 .. n_T; `forced` = 1 counts the stop of round T as a token, which it is not."""
    T, L = process.rounds, process.length
    return [t * (L + 1) for t in range(1, T)] + [T * (L + 1) - 1 + forced]


def _by_round(process: DecisionSamplingProcess, values: list[float]) -> jax.Array:
    """f[B]: the value of the trajectory's stopping round."""
    Q, A = process.num_prompts, process.num_answers
    return process.join(tuple(jnp.full((Q, A**t, A), float(v)) for t, v in enumerate(values)))


class Setting(instances.Setting):
    """The gradient on the STOP logits at a random baseline, and what it should be."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        stop = jnp.exp(by_decider(self.process, self.tables.log_stop))
        self.slope = stop * (1.0 - stop)  # f[Q, H_d, A]: pi_stop pi_res by the decider's context
        self.b = jax.random.uniform(instance.key, (self.process.num_prompts,))  # f[Q], in [0, 1]
        self.gradient = self.on_stop(self.b)  # f[Q, H_d, A]
        self.push = self.pushes(self.process, self.b, self.traj.reward)

    def excess(self, reward_B: jax.Array, baseline_Q: jax.Array) -> jax.Array:
        """R - b, f[B]."""
        return reward_B - baseline_Q[self.traj.prompt[:, 0]]

    def constant(self, value: float) -> jax.Array:
        """f[Q]: the same baseline for all prompts."""
        return jnp.full_like(self.b, value)

    def on_stop(
        self,
        baseline_Q: jax.Array | None = None,
        objective: Objective = by_length,
        reward_B: jax.Array | None = None,
    ) -> jax.Array:
        """f[Q, H_d, A]: the library's gradient with R - b for R, on the STOP logits."""
        reward = self.traj.reward if reward_B is None else reward_B
        traj = self.traj.replace(reward=reward if baseline_Q is None else self.excess(reward, baseline_Q))
        return component_gradients(self.policy, self.params, traj, objective).decision["decision"][..., STOP]

    def ahead(self, process: DecisionSamplingProcess, payoff_B: jax.Array, t: int) -> jax.Array:
        """f[Q, A^t, A]: E[payoff | RESAMPLE at round t + 1 in (h, y)]."""
        return process.values(self.tables, payoff_B).V[t + 1].reshape(self.visitation.answer[t].shape)

    def summed(self, pushes: list[jax.Array]) -> jax.Array:
        """f[Q, H_d, A]: the gradient on the STOP logits from the push per visit of each round, [Q, A^t, A]."""
        visited = [self.visitation.answer[t] * push for t, push in enumerate(pushes)]
        return self.slope * by_context(self.process, visited)

    def per_visit(self, gradient: jax.Array) -> jax.Array:
        """f[Q, H_d, A]: the gradient over rho pi_stop pi_res."""
        return gradient / self.summed([jnp.ones_like(x) for x in self.visitation.answer[:-1]])

    def direct(self, baseline_Q: jax.Array, forced: int = 0) -> jax.Array:
        """The first closed form: what stopping pays per token, less what going on pays."""
        process, n = self.process, _lengths(self.process, forced)
        payoff = self.excess(self.traj.reward, baseline_Q) / _by_round(process, [float(x) for x in n])
        own = process.reward_table[:, None, :] - baseline_Q[:, None, None]
        rounds = range(process.rounds - 1)
        return self.summed([(own - process.cost * t) / n[t] - self.ahead(process, payoff, t) for t in rounds])

    def pushes(self, process: DecisionSamplingProcess, baseline_Q: jax.Array, reward_B: jax.Array) -> Push:
        """Both parts for a process with the policy of the setting; `reward_B` is its return."""
        n, r = _lengths(process), process.reward_table[:, None, :]
        excess = self.excess(reward_B, baseline_Q)
        plain, tilt = [], []
        for t in range(process.rounds - 1):
            # The library's V counts costs already paid: r - c t stands for R if the decider stops.
            plain.append(r - process.cost * t - self.ahead(process, reward_B, t))
            tilt.append(self.ahead(process, excess * _by_round(process, [1 - n[t] / m for m in n]), t))
        return Push(plain, tilt)

    def divided(self, parts: list[jax.Array]) -> jax.Array:
        """The gradient on the STOP logits from n_t times the push per visit."""
        n = _lengths(self.process)
        return self.summed([x / n[t] for t, x in enumerate(parts)])

    def signed(self, *gradients: jax.Array) -> jax.Array:
        """Least push per visit in the right direction, STOP up iff the answer is right."""
        right = self.process.reward_table[:, None, :] > 0.5
        pushes = [self.per_visit(gradient) for gradient in gradients]
        return jnp.min(jnp.stack([jnp.where(right, push, -push) for push in pushes]))

    @cached_property
    def at_ends(self) -> tuple[jax.Array, jax.Array]:
        """The gradient at b = 0 and b = 1."""
        return self.on_stop(self.constant(0.0)), self.on_stop(self.constant(1.0))

    def grpo_gap(self, baseline_Q: jax.Array | None = None) -> jax.Array:
        """Distance of token-mean GRPO from c_G(p) times the gradient at a baseline, b = p by default."""
        p = self.values.V[0][:, 0]
        direct = self.direct(p if baseline_Q is None else baseline_Q)
        grouped = self.on_stop(objective=partial(grpo, group_size=GROUP, epsilon=0.0))
        return gap(grouped, factor(p, GROUP)[:, None, None] * direct)

    @cached_property
    def inside(self) -> Inside:
        """With the first answer of the first prompt graded so that its sign must flip in round 1 (b = c = 0).

        Pushes are affine in the grade g of that answer and grow with it. At b = c = 0 the push of T8 crosses 0 at a g
        in [0, 1], where the other one is D > 0; so that one crosses 0 at a smaller g, and both disagree in between.
        """
        zero = self.constant(0.0)

        def graded(g: jax.Array | float) -> DecisionSamplingProcess:
            return self.process.replace(reward_table=self.process.reward_table.at[0, 0].set(g))

        def push(g: float) -> jax.Array:
            at = graded(g)
            found = self.pushes(at, zero, at.support(static=True).reward)
            return jnp.stack([found.plain[0][0, 0, 0], found.total()[0][0, 0, 0]])

        low, high = push(0.0), push(1.0)
        built = graded(jnp.mean(-low / (high - low)))
        paid = built.support(static=True).reward
        push_there = self.pushes(built, zero, paid)
        return Inside(push_there, self.on_stop(objective=reinforce, reward_B=paid), self.on_stop(reward_B=paid))


class Inside(NamedTuple):
    """A verifier that lies in the region of opposite signs, and the gradients there."""

    push: Push
    of_reward: jax.Array
    of_length: jax.Array


def _misplaced(measured: jax.Array, push: Push, side: float = 1.0) -> jax.Array:
    """How deep an answer lies on the wrong side of the region's edges.

    Args:
      measured: bool, whether the sign differs from that of T8.
      push: plain is r - (V - c), the distance from one edge; the other one is V - c - D, at distance plain + tilt.
      side: of V - c on which the region is said to be.
    """
    plain, tilt = jnp.concatenate(push.plain, axis=1), side * jnp.concatenate(push.tilt, axis=1)
    inside = plain * (plain + tilt) < 0
    return jnp.max(jnp.where(measured != inside, jnp.minimum(jnp.abs(plain), jnp.abs(plain + tilt)), 0.0))


THEOREM = Theorem(
    STATEMENTS["T13"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=4, prompts=2, history="none"),
        Shape(rounds=4, length=1, vocabulary=3, graded=True),
        Shape(rounds=3, length=1, vocabulary=5, graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3, network=True),
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, history="none", cost=True),
        Shape(rounds=2, length=4, vocabulary=2, graded=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        WITHOUT_REFERENCE,
        without_pushes(
            "binary, c = 0, b in [0, 1]: STOP pushed up iff the answer is right",
            "the sign differs from that of T8 iff r lies between V_(t+1) - c and V_(t+1) - c - D",
        ),
    ),
    requires=(RESAMPLES, MIXED_IF_BINARY),
    draw=draw_with_free_decider,
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere = THEOREM.on()
binary = THEOREM.on(lambda shape: not shape.graded and not shape.cost)
graded = THEOREM.on(lambda shape: shape.graded and not shape.cost)
graded_full = THEOREM.on(lambda shape: shape.graded and not shape.cost and shape.history == "full")


@everywhere.equation("the coefficient of every token is (R - b) / n_tau, n_tau = tau (L+1) - 1[tau = T]")
def _coefficient(s: Setting) -> jax.Array:
    excess = s.excess(s.traj.reward, s.b)
    c = coefficients(by_length, s.logp, s.traj.replace(reward=excess)) / s.traj.weight[:, None]
    lengths = _by_round(s.process, [float(x) for x in _lengths(s.process)])
    return gap(c, jnp.where(s.traj.mask, (excess / lengths)[:, None], 0.0))


_formula = everywhere.equation(
    "gradient on logit_STOP = sum of rho pi_stop pi_res ((R_stop - b)/n_t - E[(R - b)/n_tau | RESAMPLE])",
    lambda s: gap(s.gradient, s.direct(s.b)),
)
_split = everywhere.equation(
    "= sum of rho pi_stop pi_res (r - V_(t+1) + c + D) / n_t, D = E[(R - b)(1 - n_t/n_tau) | RESAMPLE]",
    lambda s: gap(s.gradient, s.divided(s.push.total())),
)
# Per visit: the gradient, exact to SUM/100 of its visits, over rho pi_stop pi_res.
_sign = binary.inequality(
    "binary, c = 0, b in [0, 1]: STOP pushed up iff the answer is right",
    lambda s: s.signed(*s.at_ends, s.gradient),
    strict=True,
)
_grpo = binary.equation("binary, c = 0: token-mean GRPO is c_G(p) times this with b = p", lambda s: s.grpo_gap())


@graded.inequality("c = 0: b = 0 tilts every decision to STOP, b = 1 to RESAMPLE", strict=True)
def _tilts(s: Setting) -> jax.Array:
    own, unit = s.divided(s.push.plain), s.divided([jnp.ones_like(x) for x in s.push.plain])
    return jnp.min(jnp.minimum((s.at_ends[0] - own) / unit, (own - s.at_ends[1]) / unit))


# Distance from the edge of the region to an answer on the wrong side of it; pushes per visit, as above.
_region = THEOREM.on(lambda shape: shape.history == "full").equation(
    "the sign differs from that of T8 iff r lies between V_(t+1) - c and V_(t+1) - c - D",
    lambda s: _misplaced(s.on_stop(objective=reinforce) * s.gradient < 0, s.push),
)

everywhere.control(
    "forced stop of round T counted as a token", _formula, lambda s: gap(s.gradient, s.direct(s.b, forced=1))
)
everywhere.control("D left out", _split, lambda s: gap(s.gradient, s.divided(s.push.plain)))
binary.control("b = -10 keeps the signs", _sign, lambda s: shortfall(s.signed(s.on_stop(s.constant(OUTSIDE)))))


@graded_full.control("a graded verifier keeps the signs (verifier built to lie in the region)", _sign)
def _keeps(s: Setting) -> jax.Array:
    aligned = jnp.where(s.inside.of_reward > 0, s.inside.of_length, -s.inside.of_length)
    return shortfall(jnp.min(s.per_visit(aligned)))


graded_full.control(
    "the region on the other side of V_(t+1) - c (same verifier)",
    _region,
    lambda s: _misplaced(s.inside.of_reward * s.inside.of_length < 0, s.inside.push, side=-1.0),
)
binary.control("GRPO with the baseline b = 1/2", _grpo, lambda s: s.grpo_gap(s.constant(0.5)))

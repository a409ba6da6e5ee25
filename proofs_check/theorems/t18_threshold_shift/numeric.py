"""T18: a KL penalty moves the decider's threshold; how it tells answers apart follows reward and reference alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients
from dsjax.numerics import divide
from dsjax.objectives import Objective, SumCount, own_token_kl, reinforce
from dsjax.policies import Params, log_probs
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.extremes import without_pushes
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import SUM, gap
from proofs_check.requirements import MEMORYLESS, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

BETA = 0.4
TIME = 1.0  # of the flow
# RK4 on dC/dt = dr - beta (C - C_ref) errs by N (beta h)^5/120 x |C - ..|: 64 x (0.4/64)^5/120 x 10 = 5e-11.
FLOW, STEPS = 1e-10, 64
FREE_STEPS = 8  # where dC/dt = dr does not change any number of steps is exact


def _with_own_token_kl(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    total, count = reinforce(logp_BxS, traj)
    return total + BETA * own_token_kl(logp_BxS, traj)[0], count


OBJECTIVES: dict[str, Objective] = {
    "trajectory KL": partial(reinforce, reward_kl=BETA),
    "own-token KL": _with_own_token_kl,
}


def odds(params: Params) -> jax.Array:
    """D[Q, H, A]: log-odds of STOP."""
    return params["decision"][..., 0] - params["decision"][..., 1]


class Setting(instances.Setting):
    """Pushes per visit on the log-odds of STOP, from the library's gradients."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        self.reference = instance.reference
        self.reward = self.process.reward_table
        self.drift = (odds(self.params) - odds(self.reference))[:, 0]  # Delta f[Q, A], round 1 with history `full`
        # A large cost drives all of D at its own speed; once STOP is certain nothing is left to measure a push by.
        self.time = TIME / jnp.maximum(1.0, self.process.cost)
        self.path = instances.perturbed(instance.key, self.params, 1.0)["sample"]

    def law(self, params: Params) -> Trajectories:
        """All trajectories of a policy with their log-probs under it and under the reference."""
        traj = self.process.enumerate_trajectories(self.policy, params, static=True)
        return traj.replace(ref_logp=log_probs(self.policy, self.reference, traj))

    def pushes(self, params: Params, objective: Objective) -> jax.Array:
        """f[Q, H, A]: gradient on the log-odds of STOP over the Fisher information there."""
        traj = self.law(params)
        gradient = component_gradients(self.policy, params, traj, objective).decision["decision"][..., 0]
        assert traj.old_logp is not None
        visitation = self.process.visitation(self.process.tables(traj.old_logp))
        visits = jnp.concatenate(visitation.answer[:-1], axis=1)
        if self.shape.history == "none":
            visits = jnp.sum(visits, axis=1, keepdims=True)
        stop = jax.nn.sigmoid(odds(params))
        return gradient / (visits * stop * (1 - stop))

    def uneven(self, pushes_QxA: jax.Array, stated_QxA: jax.Array) -> jax.Array:
        """How far differences of pushes between the answers of a prompt are from the stated ones."""

        def centred(x: jax.Array) -> jax.Array:
            return x - jnp.mean(x, -1, keepdims=True)

        return gap(centred(pushes_QxA), centred(stated_QxA))

    @cached_property
    def pulled(self) -> jax.Array:
        """D[Q, A] at the end of the flow with the pull of the reference."""
        return self._flow(OBJECTIVES["trajectory KL"], STEPS)

    @cached_property
    def free(self) -> jax.Array:
        """D[Q, A] at the end of the flow without KL."""
        return self._flow(reinforce, FREE_STEPS)

    def _flow(self, objective: Objective, steps: int) -> jax.Array:
        """D[Q, A] after `time` of natural gradient flow of pi_d by RK4, while the sampler goes to `path`."""
        h = self.time / steps

        def velocity(time: jax.Array, D: jax.Array) -> jax.Array:
            sample = self.params["sample"] + time / self.time * (self.path - self.params["sample"])
            decide = jnp.stack([D, jnp.zeros_like(D)], -1)[:, None]
            return self.pushes({"sample": sample, "decision": decide}, objective)[:, 0]

        def step(D: jax.Array, time: jax.Array) -> tuple[jax.Array, None]:
            k1 = velocity(time, D)
            k2 = velocity(time + h / 2, D + h / 2 * k1)
            k3 = velocity(time + h / 2, D + h / 2 * k2)
            k4 = velocity(time + h, D + h * k3)
            return D + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

        times = h * jnp.arange(steps, dtype=self.reward.dtype)
        return jax.lax.scan(step, odds(self.params)[:, 0], times)[0]

    def stated(self, beta: float) -> jax.Array:
        """D[Q, A] in closed form, up to a constant for each prompt."""
        start, reference = odds(self.params)[:, 0], odds(self.reference)[:, 0]
        if not beta:
            return start + self.time * self.reward
        rest = reference + self.reward / beta
        return rest + (start - rest) * jnp.exp(-beta * self.time)


THEOREM = Theorem(
    STATEMENTS["T18"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=4, prompts=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=1, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=2, length=2, vocabulary=3, prompts=2, history="none", cost=True),
        Shape(rounds=4, length=1, vocabulary=3, history="none", graded=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=4, prompts=2, graded=True),
    ),
    spared=(
        without_pushes(
            "trajectory KL: pushes at two answers of a prompt differ by r - r' - beta (Delta - Delta')",
            "own-token KL: pushes at two answers of a prompt differ by r - r' - beta (Delta - Delta')",
            "flow of pi_d, the sampler moving: C = C_ref + dr/beta + (C(0) - C_ref - dr/beta) exp(-beta t)",
            "without KL: C = C(0) + t dr",
            "T = 2, c = 0: logit a at 1 - p, logit b at -p, logit p at (1 + (a-b)(1-2p))/E[tau]",
            "T = 2, c = 0, gradient flow in logits: 2 logit x - 1/x + 1/(1-x), added over a and b, is kept",
        ),
    ),
    prepare=Setting,
    requires=(MEMORYLESS, RESAMPLES),
)
memoryless = THEOREM.on(lambda shape: shape.history == "none")
reading = THEOREM.on(lambda shape: shape.history == "full")
small = THEOREM.on(lambda shape: shape.history == "none" and shape.vocabulary**shape.length <= 4)
two = THEOREM.on(
    lambda shape: (
        shape.history == "none"
        and shape.rounds == shape.vocabulary**shape.length == 2
        and not shape.graded
        and not shape.cost
    )
)

found = {
    name: memoryless.equation(
        f"{name}: pushes at two answers of a prompt differ by r - r' - beta (Delta - Delta')",
        lambda s, f=objective: s.uneven(s.pushes(s.params, f)[:, 0], s.reward - BETA * s.drift),
    )
    for name, objective in OBJECTIVES.items()
}
pulled = small.equation(
    "flow of pi_d, the sampler moving: C = C_ref + dr/beta + (C(0) - C_ref - dr/beta) exp(-beta t)",
    lambda s: s.uneven(s.pulled, s.stated(BETA)),
    FLOW,
)
small.equation("without KL: C = C(0) + t dr", lambda s: s.uneven(s.free, s.stated(0.0)), SUM)


def rates(p: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Natural gradient flow at T = 2, c = 0, a right and a wrong answer: d/dt of (logit p, logit a, logit b)."""
    tau = 2 - p * a - (1 - p) * b
    return (1 + (a - b) * (1 - 2 * p)) / tau, 1 - p, -p


def unlikely(x: jax.Array) -> jax.Array:
    """F(x) = 2 logit x - 1/x + 1/(1-x), with F' = 1/(x (1-x))^2: F(a) + F(b) is kept by the gradient flow in logits."""
    return 2 * (jnp.log(x) - jnp.log1p(-x)) - 1 / x + 1 / (1 - x)


class Pair(NamedTuple):
    """One right and one wrong answer, T = 2, c = 0: p, a, b f[Q] and the library's gradients on their logits.

    A prompt of a process of one's own may have two right or two wrong ones; it is not `mixed`, and p, a, b are 1/2.
    """

    p: jax.Array
    a: jax.Array
    b: jax.Array
    on_p: jax.Array
    on_a: jax.Array
    on_b: jax.Array
    mixed: jax.Array


def _pair(s: Setting) -> Pair:
    law = jax.nn.softmax(s.params["sample"][:, 0, 0])  # f[Q, 2]
    stop = jax.nn.sigmoid(odds(s.params))[:, 0]
    found = component_gradients(s.policy, s.params, s.law(s.params), reinforce)
    sampler, decider = found.sample["sample"][:, 0, 0], found.decision["decision"][:, 0, :, 0]
    right, wrong = s.reward > 0, s.reward == 0
    chosen = ((right, law), (right, stop), (wrong, stop), (right, sampler), (right, decider), (wrong, decider))
    p, a, b, *gradients = (jnp.sum(jnp.where(mask, x, 0.0), -1) for mask, x in chosen)
    mixed = right.any(-1) & wrong.any(-1)
    return Pair._make([*(jnp.where(mixed, x, 0.5) for x in (p, a, b)), *gradients, mixed])


@two.equation("T = 2, c = 0: logit a at 1 - p, logit b at -p, logit p at (1 + (a-b)(1-2p))/E[tau]")
def _rates(s: Setting) -> jax.Array:
    p, a, b, *gradients, mixed = _pair(s)
    tau = 1 + (1 - p * a - (1 - p) * b)
    # Fisher information: visits of the softmax times p (1 - p) along the log-odds.
    visits = (tau * p * (1 - p), p * a * (1 - a), (1 - p) * b * (1 - b))
    moved = [g / (s.process.prompt_law * fisher) for g, fisher in zip(gradients, visits, strict=True)]
    return gap(*(jnp.where(mixed[None], jnp.stack(x), 0.0) for x in (moved, rates(p, a, b))))


def _drift(s: Setting, slope: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """|d/dt [F(a) + F(b)]| under the gradient flow in logits, relative to its two parts, which cancel."""
    pair = _pair(s)
    of_a, of_b = (slope(x) * x * (1 - x) * g for x, g in ((pair.a, pair.on_a), (pair.b, pair.on_b)))
    return jnp.max(divide(jnp.abs(of_a + of_b), jnp.where(pair.mixed, jnp.abs(of_a) + jnp.abs(of_b), 0.0)))


kept = two.equation(
    "T = 2, c = 0, gradient flow in logits: 2 logit x - 1/x + 1/(1-x), added over a and b, is kept",
    lambda s: _drift(s, jax.vmap(jax.grad(unlikely))),
)
two.control("logit a + logit b said to be kept", kept, lambda s: _drift(s, lambda x: 1 / (x * (1 - x))))
memoryless.control(
    "Delta left out",
    found["trajectory KL"],
    lambda s: s.uneven(s.pushes(s.params, OBJECTIVES["trajectory KL"])[:, 0], s.reward),
)
reading.control(
    "a sampler that reads the answer, round 1",
    found["trajectory KL"],
    lambda s: s.uneven(s.pushes(s.params, OBJECTIVES["trajectory KL"])[:, 0], s.reward - BETA * s.drift),
)
small.control("the flow without the pull of the reference", pulled, lambda s: s.uneven(s.pulled, s.stated(0.0)))

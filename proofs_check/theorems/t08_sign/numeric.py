"""T8: the reward gradient pushes each STOP logit the right way; that of SFT does not know what is right."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients
from dsjax.objectives import Objective, reinforce, sft
from dsjax.trajectories import STOP, Trajectories
from proofs_check import instances
from proofs_check.closed_forms import by_context, by_decider, context_counts
from proofs_check.extremes import WITHOUT_REFERENCE, without_pushes
from proofs_check.instances import Instance, Shape, draw_with_free_decider, normal
from proofs_check.numerics import gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem


class Setting(instances.Setting):
    """The measured gradient on the decider's logits, and two demonstrators."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        self.stop = jnp.exp(by_decider(self.process, self.tables.log_stop))  # f[Q, H_d, A]: pi_stop
        self.slope = self.stop * (1.0 - self.stop)
        self.gradient = self.on_decider(self.traj)  # f[Q, H_d, A, 2]
        self.up = self.gradient[..., STOP]
        # An arbitrary law on all trajectories; success-only: STOP at a first answer in proportion to its reward.
        anything = jax.nn.softmax(normal(instance.key, self.traj.weight.size))
        first = jnp.sum(jnp.where(self.traj.mask, self.traj.round, 0), -1) == 0
        success = jnp.where(first, anything * self.traj.reward, 0.0)
        self.anything = self.traj.replace(weight=anything)
        self.success = self.traj.replace(weight=success / jnp.sum(success))
        self.sft_gradient = self.on_decider(self.anything, sft)

    def on_decider(self, traj: Trajectories, objective: Objective = reinforce) -> jax.Array:
        """The library's gradient on the decider's logits."""
        return component_gradients(self.policy, self.params, traj, objective).decision["decision"]

    def demonstrations(self, shift: jax.Array | float) -> Trajectories:
        """Those of the policy with `shift`, in nats, added to each log-odds of STOP."""
        other = {**self.params, "decision": self.params["decision"].at[..., STOP].add(shift)}
        return self.process.enumerate_trajectories(self.policy, other, static=True)

    def stated(self, *, ahead: int = 1, cost: float | None = None, rounds: int | None = None) -> jax.Array:
        """f[Q, H_d, A]: the statement's gradient on the STOP logits.

        Args:
          ahead: rounds by which V is ahead of the decision; the library's V counts costs already paid, so they are
            added back.
          cost: instead of that of the process.
          rounds: the first ones only.
        """
        process, V, rho = self.process, self.values.V, self.visitation.answer
        c = process.cost if cost is None else cost
        pushes = []
        for t in range(process.rounds - 1 if rounds is None else rounds):
            value = V[t][..., None] if ahead == 0 else V[t + 1].reshape(rho[t].shape)
            pushes.append(rho[t] * (process.reward_table[:, None, :] - (value + process.cost * (t + ahead)) + c))
        return self.slope * by_context(process, pushes)

    def signed(self, gradient_stop: jax.Array) -> jax.Array:
        """f[]: least push per visit in the right direction, STOP up iff the answer is right."""
        push = gradient_stop / (by_context(self.process, list(self.visitation.answer[:-1])) * self.slope)
        return jnp.min(jnp.where(self.process.reward_table[:, None, :] > 0.5, push, -push))


def _swapped(traj: Trajectories) -> Trajectories:
    """The trajectories under the opposite verifier, 1 - r (c = 0)."""
    return traj.replace(reward=1.0 - traj.reward)


THEOREM = Theorem(
    STATEMENTS["T8"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=5, prompts=2),
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=4, history="none"),
        Shape(rounds=3, length=2, vocabulary=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3, network=True),
        Shape(rounds=2, length=4, vocabulary=2, graded=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", cost=True),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        WITHOUT_REFERENCE,
        without_pushes(
            "binary, c = 0: STOP pushed up iff the answer is right",
            "SFT on demonstrations that decide better than pi: STOP up iff the answer is right",
        ),
    ),
    requires=(RESAMPLES, MIXED_IF_BINARY),
    draw=draw_with_free_decider,
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere = THEOREM.on()
binary = THEOREM.on(lambda shape: not shape.graded and not shape.cost)

_formula = everywhere.equation(
    "dJ/dlogit_STOP = sum of rho pi_stop pi_res (r - V_(t+1) + c) over the visits that share the logit",
    lambda s: gap(s.up, s.stated()),
)
everywhere.equation("dJ/dlogit_RESAMPLE is its negative", lambda s: gap(s.gradient[..., 1 - STOP], -s.up))
# Per visit: the gradient, exact to SUM/100 of its visits, over rho pi_stop pi_res.
_sign = binary.inequality(
    "binary, c = 0: STOP pushed up iff the answer is right", lambda s: s.signed(s.up), strict=True
)
binary.equation(
    "binary, c = 0: swapping right and wrong flips the reward gradient",
    lambda s: gap(s.on_decider(_swapped(s.traj)), -s.gradient),
)


def _imitation(s: Setting, *, normalised: bool = True) -> jax.Array:
    counts = context_counts(s.process, s.anything.weight)
    stated = counts["decision"][..., STOP] - jnp.sum(counts["decision"], -1) * s.stop
    N = jnp.sum(counts["sample"]) + jnp.sum(counts["decision"])
    return gap(s.sft_gradient[..., STOP], stated / N if normalised else stated)


_sft = everywhere.equation("SFT: gradient on logit_STOP = nu (nu(STOP) - pi_stop) / N", _imitation)


# Every term of these sums is an exact zero, or the very same number.
@everywhere.equation("SFT: exactly 0 where demonstrations do not go", tolerance=0.0)
def _unvisited(s: Setting) -> jax.Array:
    visits = jnp.sum(context_counts(s.process, s.success.weight)["decision"], -1, keepdims=True)
    return jnp.max(jnp.where(visits == 0, jnp.abs(s.on_decider(s.success, sft)), 0.0))


@binary.inequality("SFT on demonstrations that decide better than pi: STOP up iff the answer is right", strict=True)
def _better(s: Setting) -> jax.Array:
    return s.signed(s.on_decider(s.demonstrations(2.0 * s.process.reward_table[:, None, :] - 1.0), sft)[..., STOP])


everywhere.control("V_t for V_(t+1)", _formula, lambda s: gap(s.up, s.stated(ahead=0)))
THEOREM.on(lambda shape: shape.cost).control(
    "resampling cost left out", _formula, lambda s: gap(s.up, s.stated(cost=0.0))
)
THEOREM.on(lambda shape: shape.history == "none" and shape.rounds >= 3).control(
    "first round only, for a logit that serves several", _formula, lambda s: gap(s.up, s.stated(rounds=1))
)


@binary.control("SFT on demonstrations that stop more often than pi: STOP pushed up iff the answer is right", _sign)
def _eager(s: Setting) -> jax.Array:
    return shortfall(s.signed(s.on_decider(s.demonstrations(1.0), sft)[..., STOP]))


everywhere.control("normaliser N left out of the SFT gradient", _sft, lambda s: _imitation(s, normalised=False))

"""T1: the gradient of the expected return splits over the two components.

Three ways to the same gradient: autodiff of the exact J (dense backward recursion), the score form on the enumerated
trajectories, central differences of J. Each component is checked alone, by freezing the other one inside of J.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import ComponentGradients, component_gradients, fisher
from dsjax.objectives import reinforce
from dsjax.policies import log_probs
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import attempts, component_logp, returns
from proofs_check.extremes import WITHOUT_REFERENCE
from proofs_check.instances import Instance, Shape, normal, perturbed
from proofs_check.numerics import gap
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

STEP = 3e-4  # central differences of fourth order
DIRECTIONS = 8


class Setting(instances.Setting):
    """The exact gradients and the scores of every trajectory."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        self.gradients = self.gradients_on(self.traj)
        # (dJ through pi_sample, dJ through pi_d), by autodiff.
        self.exact_s, self.exact_d = jax.grad(self.expected, argnums=(0, 1))(self.params, self.params)
        flat, unravel = ravel_pytree(self.params)

        def of_components(p: jax.Array) -> tuple[jax.Array, jax.Array]:
            traj, logp = self.traj, log_probs(self.policy, unravel(p), self.traj)
            return jnp.where(traj.sample_mask, logp, 0.0).sum(-1), jnp.where(traj.decision_mask, logp, 0.0).sum(-1)

        self.score_s, self.score_d = jax.jacfwd(of_components)(flat)  # f[B, P]

    def expected(self, sampler: Any, decider: Any) -> jax.Array:
        """Exact J with each component at its own parameters."""
        logp = component_logp(self.policy, sampler, decider, self.traj)
        return self.process.expected_return(self.process.tables(logp), self.returns)

    def gradients_on(self, traj: Trajectories) -> ComponentGradients:
        """Of the library."""
        return component_gradients(self.policy, self.params, traj, reinforce)


THEOREM = Theorem(
    STATEMENTS["T1"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=2, prompts=2, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=3, history="none", cost=True, shared=9),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=1, length=3, vocabulary=4, history="none", graded=True, shared=4),
        Shape(rounds=2, length=1, vocabulary=5, history="none"),
        Shape(rounds=2, length=4, vocabulary=2, history="none", shared=4),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(WITHOUT_REFERENCE,),
    prepare=Setting,
    telling=lambda shape: not shape.network,
)
everywhere = THEOREM.on()

_sampler = everywhere.equation(
    "G_s is the gradient of J through pi_sample", lambda s: gap(s.gradients.sample, s.exact_s)
)
_decider = everywhere.equation("G_d is the gradient of J through pi_d", lambda s: gap(s.gradients.decision, s.exact_d))


# Truncation STEP^4/30 x |J^(5)| with |J^(5)| <= 24 S^5 for S <= 14 scores of order one: 3e-9. Rounding
# EPS/STEP x J: 1e-12.
@everywhere.equation("G_s + G_d equals central differences of J", tolerance=1e-8)
def _central(s: Setting) -> jax.Array:
    flat, unravel = ravel_pytree(s.params)
    # Along each parameter; along a few directions for a network, which has many and is slow.
    along = normal(s.instance.key, DIRECTIONS, flat.size) if s.shape.network else jnp.eye(flat.size)
    steps = STEP * along / jnp.linalg.norm(along, axis=1, keepdims=True)

    def expected(p: jax.Array) -> jax.Array:
        return s.expected(unravel(p), unravel(p))

    # One traced evaluation for the four points of every direction.
    points = flat[None, None, :] + jnp.asarray([-2.0, -1.0, 1.0, 2.0])[None, :, None] * steps[:, None, :]
    every = jax.vmap(expected)
    values = jax.lax.map(every, points) if s.shape.network else jax.vmap(every)(points)
    central = values @ jnp.asarray([1.0, -8.0, 8.0, -1.0]) / (12 * STEP)
    return gap(ravel_pytree(s.gradients.total)[0] @ steps.T / STEP, central)


def _crossed(s: Setting, traj: Trajectories) -> jax.Array:
    return jnp.max(jnp.abs(s.score_s.T @ (traj.weight[:, None] * s.score_d)))


_orthogonal = everywhere.equation("E[score_s score_d^T] = 0", lambda s: _crossed(s, s.traj))


# Entries are second moments of scores, at most S^2 = 200 times a probability.
@everywhere.equation("E[score score^T] = F_s + F_d")
def _second_moment(s: Setting) -> jax.Array:
    F_s, F_d = fisher(s.policy, s.params, s.traj)
    score = s.score_s + s.score_d
    return gap(score.T @ (s.traj.weight[:, None] * score), F_s + F_d)


@everywhere.control("the forced stop of round T counted as a decision", _decider)
def _forced(s: Setting) -> jax.Array:
    traj, T = s.traj, s.shape.rounds
    forced = (jnp.arange(traj.tokens.shape[1]) == T * (s.policy.length + 1) - 1)[None, :]
    reached = jnp.any(traj.sample_mask & (traj.round == T - 1), axis=-1)[:, None]
    wrong = traj.replace(decision_mask=traj.decision_mask | (forced & reached))
    return gap(s.gradients_on(wrong).decision, s.exact_d)


@everywhere.control("reward of another answer", _sampler)
def _misread(s: Setting) -> jax.Array:
    """Whatever the shape: the next answer of the same prompt is looked up."""
    process = s.process.replace(reward_table=jnp.roll(s.process.reward_table, 1, axis=1))
    return gap(s.gradients_on(s.traj.replace(reward=returns(process, s.traj))).sample, s.exact_s)


@THEOREM.on(lambda shape: shape.rounds >= 2 and shape.cost).control("resampling cost left out of the return", _sampler)
def _free(s: Setting) -> jax.Array:
    free = s.returns + s.process.cost * (attempts(s.process, s.traj) - 1).astype(s.returns.dtype)
    return gap(s.gradients_on(s.traj.replace(reward=free)).sample, s.exact_s)


@THEOREM.on(lambda shape: shape.rounds >= 2).control("trajectories drawn by a policy 1% away", _orthogonal)
def _off_policy(s: Setting) -> jax.Array:
    return _crossed(
        s, s.process.enumerate_trajectories(s.policy, perturbed(s.instance.key, s.params, 0.01), static=True)
    )

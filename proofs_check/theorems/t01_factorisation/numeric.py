"""T1: the gradient of the expected return splits over the two components.

Three ways to the same gradient: autodiff of the exact J (dense backward recursion), the score form on the enumerated
trajectories, central differences of J. Each component is checked alone, by freezing the other one inside of J.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import ComponentGradients, component_gradients, fisher
from dsjax.objectives import reinforce
from dsjax.policies import log_probs
from dsjax.trajectories import Trajectories
from proofs_check.instances import Instance, Shape, enumerated, normal, perturbed
from proofs_check.numerics import SUM, gap
from proofs_check.theorem import Claim, Control, Measured, Theorem

STEP = 3e-4  # central differences of fourth order
DIRECTIONS = 8

CLAIMS = (
    Claim("G_s is the gradient of J through pi_sample", SUM),
    Claim("G_d is the gradient of J through pi_d", SUM),
    # Truncation STEP^4/30 x |J^(5)| with |J^(5)| <= 24 S^5 for S <= 14 scores of order one: 3e-9. Rounding
    # EPS/STEP x J: 1e-12.
    Claim("G_s + G_d equals central differences of J", 1e-8),
    Claim("E[score_s score_d^T] = 0", SUM),
    # Entries are second moments of scores, at most S^2 = 200 times a probability.
    Claim("E[score score^T] = F_s + F_d", SUM),
)
CONTROLS = (
    Control("the forced stop of round T counted as a decision", "G_d is the gradient of J through pi_d"),
    Control("resampling cost left out of the return", "G_s is the gradient of J through pi_sample"),
    Control("trajectories drawn by a policy 1% away", "E[score_s score_d^T] = 0"),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories
    exact: tuple[Any, Any]  # (dJ through pi_sample, dJ through pi_d)
    score_s: jax.Array  # f[B, P]
    score_d: jax.Array  # f[B, P]


def _return(instance: Instance, support: Trajectories, sampler: Any, decider: Any) -> jax.Array:
    """Exact J with each component at its own parameters."""
    process, policy = instance.process, instance.policy
    logp = jnp.where(support.sample_mask, log_probs(policy, sampler, support), log_probs(policy, decider, support))
    return process.expected_return(process.tables(logp), support.reward)


def prepare(instance: Instance) -> Setting:
    """The enumerated law, the exact gradients and the scores of every trajectory."""
    policy, params = instance.policy, instance.params
    traj, _ = enumerated(instance)
    exact = jax.grad(lambda s, d: _return(instance, traj, s, d), argnums=(0, 1))(params, params)
    flat, unravel = ravel_pytree(params)

    def component_logp(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        logp = log_probs(policy, unravel(p), traj)
        return jnp.where(traj.sample_mask, logp, 0.0).sum(-1), jnp.where(traj.decision_mask, logp, 0.0).sum(-1)

    return Setting(instance, traj, exact, *jax.jacfwd(component_logp)(flat))


def _gradients(setting: Setting, traj: Trajectories) -> ComponentGradients:
    return component_gradients(setting.instance.policy, setting.instance.params, traj, reinforce)


def check(setting: Setting) -> dict[str, Measured]:
    """Each component against autodiff of J, the sum against central differences, and the Fisher matrices."""
    instance, traj, (exact_s, exact_d), score_s, score_d = setting
    gradients = _gradients(setting, traj)
    flat, unravel = ravel_pytree(instance.params)

    def expected(p: jax.Array) -> jax.Array:
        return _return(instance, traj, unravel(p), unravel(p))

    # Along each parameter; along a few directions for a network, which has many and is slow.
    along = normal(instance.key, DIRECTIONS, flat.size) if instance.shape.network else jnp.eye(flat.size)
    steps = STEP * along / jnp.linalg.norm(along, axis=1, keepdims=True)

    def slope(e: jax.Array) -> jax.Array:
        near, far = expected(flat + e) - expected(flat - e), expected(flat + 2 * e) - expected(flat - 2 * e)
        return (8 * near - far) / (12 * STEP)

    central = jax.lax.map(slope, steps) if instance.shape.network else jax.vmap(slope)(steps)
    total = ravel_pytree(gradients.total)[0] @ steps.T / STEP
    weight = traj.weight[:, None]
    F_s, F_d = fisher(instance.policy, instance.params, traj)
    score = score_s + score_d
    errors = (
        gap(gradients.sample, exact_s),
        gap(gradients.decision, exact_d),
        gap(total, central),
        jnp.max(jnp.abs(score_s.T @ (weight * score_d))),
        gap(score.T @ (weight * score), F_s + F_d),
    )
    return {claim.name: Measured(error) for claim, error in zip(CLAIMS, errors, strict=True)}


def control(setting: Setting) -> dict[str, jax.Array]:
    """Wrong variants: one more decision factor, a return without its cost, a law that is not the policy's."""
    instance, traj, (exact_s, exact_d), score_s, score_d = setting
    if instance.shape.network:  # nothing keeps a network from being almost certain, and then wrong variants are small
        return {}
    L, T = instance.policy.length, instance.shape.rounds
    forced = (jnp.arange(traj.tokens.shape[1]) == T * (L + 1) - 1)[None, :]
    reached = jnp.any(traj.sample_mask & (traj.round == T - 1), axis=-1)[:, None]
    wrong = traj.replace(decision_mask=traj.decision_mask | (forced & reached))
    errors = {CONTROLS[0].name: gap(_gradients(setting, wrong).decision, exact_d)}
    if T == 1:
        return errors
    if instance.shape.cost:
        stop_round = jnp.max(jnp.where(traj.sample_mask, traj.round, 0), axis=-1).astype(traj.reward.dtype)
        free = traj.replace(reward=traj.reward + instance.process.cost * stop_round)
        errors[CONTROLS[1].name] = gap(_gradients(setting, free).sample, exact_s)
    off = instance.process.enumerate_trajectories(instance.policy, perturbed(instance.key, instance.params, 0.01))
    errors[CONTROLS[2].name] = jnp.max(jnp.abs(score_s.T @ (off.weight[:, None] * score_d)))
    return errors


THEOREM = Theorem(
    id="T1",
    title="Factorisation",
    statement="grad J = G_s + G_d with G_c = E[R sum_c grad log pi_c], and E[score_s score_d^T] = 0",
    provenance="[P]",
    assumptions=(
        "finite process, parameters shared or not",
        "the stop at round T is forced: no decision factor there",
    ),
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, history="none", cost=True, shared=9),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=1, length=3, vocabulary=4, history="none", graded=True, shared=4),
        Shape(rounds=2, length=1, vocabulary=5, history="none"),
        Shape(rounds=1, length=4, vocabulary=2, prompts=2, history="none", shared=4),
        Shape(rounds=1, length=5, vocabulary=2, graded=True, shared=4),
        Shape(rounds=1, length=6, vocabulary=2, shared=9),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "log P(w) is the sum of its log factors, so grad J = E[R grad log P] splits by component. A factor's score "
        "has mean 0 given everything before it, so scores of different factors are uncorrelated, with shared "
        "parameters too."
    ),
    prepare=prepare,
    check=check,
    control=control,
)

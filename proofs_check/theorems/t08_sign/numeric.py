"""T8: the reward gradient pushes each STOP logit the right way; that of SFT does not know what is right."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients
from dsjax.objectives import Objective, reinforce, sft
from dsjax.process import Values, Visitation
from dsjax.trajectories import STOP, Trajectories
from proofs_check.closed_forms import by_decider, context_counts
from proofs_check.instances import Instance, Shape, draw_with_free_decider, enumerated, normal
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem

CLAIMS = (
    Claim("dJ/dlogit_STOP = sum of rho pi_stop pi_res (r - V_(t+1) + c) over the visits that share the logit", SUM),
    Claim("dJ/dlogit_RESAMPLE is its negative", SUM),
    # Per visit: the gradient, exact to SUM/100 of its visits, over rho pi_stop pi_res.
    Claim("binary, c = 0: STOP pushed up iff the answer is right", SUM, strict=True),
    Claim("binary, c = 0: swapping right and wrong flips the reward gradient", SUM),
    Claim("SFT: gradient on logit_STOP = nu (nu(STOP) - pi_stop) / N", SUM),
    # Every term of these sums is an exact zero, or the very same number.
    Claim("SFT: exactly 0 where demonstrations do not go", 0.0),
    Claim("SFT: unchanged when right and wrong are swapped", 0.0),
)
(FORMULA, NEGATIVE, SIGN, FLIP, SFT_FORMULA, SFT_ZERO, SFT_BLIND) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("V_t for V_(t+1)", FORMULA),
    Control("resampling cost left out", FORMULA),
    Control("first round only, for a logit that serves several", FORMULA),
    Control("SFT on demonstrations that stop more often than pi: STOP pushed up iff the answer is right", SIGN),
    Control("normaliser N left out of the SFT gradient", SFT_FORMULA),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories
    values: Values
    visitation: Visitation
    stop: jax.Array  # f[Q, H_d, A]: pi_stop by the decider's context
    gradient: jax.Array  # f[Q, H_d, A, 2] of J on the decider's logits


def _decider_gradient(instance: Instance, traj: Trajectories, objective: Objective = reinforce) -> jax.Array:
    return component_gradients(instance.policy, instance.params, traj, objective).decision["decision"]


def prepare(instance: Instance) -> Setting:
    """Values, visits and the measured gradient on the decider's logits."""
    process = instance.process
    traj, logp = enumerated(instance)
    tables = process.tables(logp)
    return Setting(
        instance,
        traj,
        process.values(tables, traj.reward),
        process.visitation(tables),
        jnp.exp(by_decider(process, tables.log_stop)),
        _decider_gradient(instance, traj),
    )


def _pushes(setting: Setting, next_values: tuple[jax.Array, ...], cost: jax.Array) -> list[jax.Array]:
    """rho (r - V_(t+1) + cost) by round, [Q, A^t, A], from values to go."""
    process, rho = setting.instance.process, setting.visitation.answer
    r = process.reward_table[:, None, :]
    return [rho[t] * (r - next_values[t] + cost) for t in range(process.rounds - 1)]


def _stated(setting: Setting, pushes: list[jax.Array]) -> jax.Array:
    """f[Q, H_d, A]: the statement's gradient on the STOP logit of each decider context."""
    joined = jnp.concatenate(pushes, axis=1)
    if setting.instance.shape.history == "none":
        joined = jnp.sum(joined, axis=1, keepdims=True)
    return setting.stop * (1.0 - setting.stop) * joined


def _next_values(setting: Setting, ahead: int = 1) -> tuple[jax.Array, ...]:
    """V_(t+1) to go, [Q, A^t, A] by round: the library's V counts costs already paid, so they are added back."""
    process, V = setting.instance.process, setting.values.V
    rho = setting.visitation.answer
    if ahead == 0:
        return tuple(V[t][..., None] + process.cost * t for t in range(process.rounds - 1))
    return tuple(V[t + 1].reshape(rho[t].shape) + process.cost * (t + 1) for t in range(process.rounds - 1))


def _signed(setting: Setting, gradient_stop: jax.Array) -> jax.Array:
    """f[Q, H_d, A]: the push per visit, positive where it goes the right way (STOP up iff right)."""
    visits = jnp.concatenate(setting.visitation.answer[:-1], axis=1)
    if setting.instance.shape.history == "none":
        visits = jnp.sum(visits, axis=1, keepdims=True)
    right = setting.instance.process.reward_table[:, None, :] > 0.5
    push = gradient_stop / (visits * setting.stop * (1.0 - setting.stop))
    return jnp.where(right, push, -push)


def _swapped(traj: Trajectories) -> Trajectories:
    """The trajectories under the opposite verifier, 1 - r (c = 0)."""
    return traj.replace(reward=1.0 - traj.reward)


def _demonstrations(setting: Setting) -> tuple[Trajectories, Trajectories]:
    """(an arbitrary law on all trajectories, success-only: STOP at a first answer in proportion to its reward)."""
    instance, traj = setting.instance, setting.traj
    anything = jax.nn.softmax(normal(instance.key, traj.weight.size))
    first = jnp.sum(jnp.where(traj.mask, traj.round, 0), -1) == 0
    success = jnp.where(first, anything * traj.reward, 0.0)
    return traj.replace(weight=anything), traj.replace(weight=success / jnp.sum(success))


def check(setting: Setting) -> dict[str, Measured]:
    """Closed form and sign of the reward gradient; closed form and blindness of the SFT gradient."""
    instance, traj, _, _, stop, gradient = setting
    shape = instance.shape
    stated = _stated(setting, _pushes(setting, _next_values(setting), instance.process.cost))
    anything, success = _demonstrations(setting)
    counts = context_counts(instance.process, anything.weight)
    N = jnp.sum(counts["sample"]) + jnp.sum(counts["decision"])
    n = jnp.sum(counts["decision"], -1)
    sft_gradient = _decider_gradient(instance, anything, sft)
    success_gradient = _decider_gradient(instance, success, sft)
    unvisited = jnp.sum(context_counts(instance.process, success.weight)["decision"], -1, keepdims=True) == 0
    measured = {
        FORMULA: Measured(gap(gradient[..., STOP], stated)),
        NEGATIVE: Measured(gap(gradient[..., 1 - STOP], -gradient[..., STOP])),
        SFT_FORMULA: Measured(gap(sft_gradient[..., STOP], (counts["decision"][..., STOP] - n * stop) / N)),
        SFT_ZERO: Measured(jnp.max(jnp.where(unvisited, jnp.abs(success_gradient), 0.0))),
    }
    if not shape.graded and not shape.cost:
        margin = jnp.min(_signed(setting, gradient[..., STOP]))
        measured[SIGN] = Measured(shortfall(margin), margin)
        measured[FLIP] = Measured(gap(_decider_gradient(instance, _swapped(traj)), -gradient))
        blind = _decider_gradient(instance, _swapped(anything), sft)
        measured[SFT_BLIND] = Measured(jnp.max(jnp.abs(blind - sft_gradient)))
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """A value one round off, a missing cost, a missing round, and imitation read as if it knew the verifier."""
    instance, _, _, _, stop, gradient = setting
    process, policy, shape = instance.process, instance.policy, instance.shape
    if not shape.saturated:  # nothing keeps a network from being almost certain, and then wrong variants are small
        return {}
    measured = gradient[..., STOP]
    late = _pushes(setting, _next_values(setting, ahead=0), process.cost)
    errors = {CONTROLS[0].name: gap(measured, _stated(setting, late))}
    if shape.cost:
        free = _pushes(setting, _next_values(setting), jnp.zeros_like(process.cost))
        errors[CONTROLS[1].name] = gap(measured, _stated(setting, free))
    if shape.history == "none" and shape.rounds >= 3:
        pushes = _pushes(setting, _next_values(setting), process.cost)
        errors[CONTROLS[2].name] = gap(measured, _stated(setting, pushes[:1]))
    anything, _ = _demonstrations(setting)
    counts = context_counts(process, anything.weight)["decision"]
    unscaled = counts[..., STOP] - jnp.sum(counts, -1) * stop
    errors[CONTROLS[4].name] = gap(_decider_gradient(instance, anything, sft)[..., STOP], unscaled)
    if not shape.graded and not shape.cost:
        eager = {**instance.params, "decision": instance.params["decision"].at[..., STOP].add(1.0)}
        demos = process.enumerate_trajectories(policy, eager)
        worst = jnp.min(_signed(setting, _decider_gradient(instance, demos, sft)[..., STOP]))
        errors[CONTROLS[3].name] = shortfall(worst)
    return errors


THEOREM = Theorem(
    id="T8",
    title="The reward gradient of pi_d has the right sign everywhere",
    statement="dJ/dlogit_STOP = rho pi_stop pi_res (r - V_(t+1) + c): binary and c = 0, > 0 iff right; SFT is blind",
    provenance="[N]",
    assumptions=(
        "saturated decider; without history a logit serves several rounds and its gradient is the sum over them",
        "sign: binary verifier, c = 0, visited state, 0 < V_(t+1) < 1",
    ),
    shapes=(
        Shape(rounds=3, length=1, vocabulary=5),
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=4, history="none"),
        Shape(rounds=3, length=2, vocabulary=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3, network=True),
        Shape(rounds=2, length=4, vocabulary=2, graded=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", cost=True),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "By T2 the coefficient is A^d; on the STOP logit of a softmax that is rho pi_stop (r - U) = rho pi_stop "
        "pi_res (r - V_next + c). For r in {0, 1} and 0 < V < 1, r - V has the sign of r - 1/2. The SFT gradient "
        "contains no reward."
    ),
    requires=(RESAMPLES, MIXED_IF_BINARY),
    draw=draw_with_free_decider,
    prepare=prepare,
    check=check,
    control=control,
)

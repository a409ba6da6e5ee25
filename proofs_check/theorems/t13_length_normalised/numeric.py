"""T13: dividing a trajectory's loss by its number of tokens moves the threshold at which pi_d is told to stop."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import coefficients, component_gradients
from dsjax.objectives import Objective, grpo, reinforce
from dsjax.process import DecisionSamplingProcess, Tables, Visitation
from dsjax.trajectories import STOP, Trajectories
from proofs_check.closed_forms import by_decider
from proofs_check.instances import Instance, Shape, draw_with_free_decider, enumerated
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem
from proofs_check.theorems.t12_grpo.numeric import GROUP, factor

OUTSIDE = -10.0  # a baseline outside of [0, 1]: (1 - b)/(0 - b) = 1.1 is less than n_(t+1)/n_t for all t <= 4

CLAIMS = (
    Claim("the coefficient of every token is (R - b) / n_tau, n_tau = tau (L+1) - 1[tau = T]", SUM),
    Claim("gradient on logit_STOP = sum of rho pi_stop pi_res ((R_stop - b)/n_t - E[(R - b)/n_tau | RESAMPLE])", SUM),
    Claim("= sum of rho pi_stop pi_res (r - V_(t+1) + c + D) / n_t, D = E[(R - b)(1 - n_t/n_tau) | RESAMPLE]", SUM),
    # Per visit: the gradient, exact to SUM/100 of its visits, over rho pi_stop pi_res.
    Claim("binary, c = 0, b in [0, 1]: STOP pushed up iff the answer is right", SUM, strict=True),
    Claim("binary, c = 0: token-mean GRPO is c_G(p) times this with b = p", SUM),
    Claim("c = 0: b = 0 tilts every decision to STOP, b = 1 to RESAMPLE", SUM, strict=True),
    # Distance from the edge of the region to an answer on the wrong side of it; pushes per visit, as above.
    Claim("the sign differs from that of T8 iff r lies between V_(t+1) - c and V_(t+1) - c - D", SUM),
)
(COEFFICIENT, FORMULA, SPLIT, SIGN, GRPO, TILT, REGION) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("forced stop of round T counted as a token", FORMULA),
    Control("D left out", SPLIT),
    Control("b = -10 keeps the signs", SIGN),
    Control("a graded verifier keeps the signs (verifier built to lie in the region)", SIGN),
    Control("the region on the other side of V_(t+1) - c (same verifier)", REGION),
    Control("GRPO with the baseline b = 1/2", GRPO),
)

by_length = partial(reinforce, aggregation="sequence_mean")


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories
    logp: jax.Array  # f[B, S]
    tables: Tables
    visitation: Visitation
    slope: jax.Array  # f[Q, H_d, A]: pi_stop pi_res by the decider's context
    baseline: jax.Array  # f[Q]: b, one a prompt, in [0, 1]
    gradient: jax.Array  # f[Q, H_d, A]: on the STOP logits, at that baseline


def _reward(instance: Instance, traj: Trajectories, baseline_Q: jax.Array) -> jax.Array:
    """R - b, f[B]."""
    return traj.reward - baseline_Q[traj.prompt[:, 0]]


def _stop_gradient(
    instance: Instance, traj: Trajectories, objective: Objective = by_length, baseline_Q: jax.Array | None = None
) -> jax.Array:
    """f[Q, H_d, A]: of the objective with R - b for R, on the STOP logits."""
    if baseline_Q is not None:
        traj = traj.replace(reward=_reward(instance, traj, baseline_Q))
    return component_gradients(instance.policy, instance.params, traj, objective).decision["decision"][..., STOP]


def prepare(instance: Instance) -> Setting:
    """The exact law and the gradient at a random baseline."""
    process = instance.process
    traj, logp = enumerated(instance)
    tables = process.tables(logp)
    stop = jnp.exp(by_decider(process, tables.log_stop))
    baseline = jax.random.uniform(instance.key, (process.num_prompts,))
    gradient = _stop_gradient(instance, traj, baseline_Q=baseline)
    visitation = process.visitation(tables)
    return Setting(instance, traj, logp, tables, visitation, stop * (1.0 - stop), baseline, gradient)


def _lengths(process: DecisionSamplingProcess, forced: int = 0) -> list[int]:
    """n_1 .. n_T; `forced` = 1 counts the stop of round T as a token, which it is not."""
    T, L = process.rounds, process.length
    return [t * (L + 1) for t in range(1, T)] + [T * (L + 1) - 1 + forced]


def _by_round(process: DecisionSamplingProcess, values: list[float]) -> jax.Array:
    """f[B]: the value of the trajectory's stopping round."""
    Q, A = process.num_prompts, process.num_answers
    return process.join(tuple(jnp.full((Q, A**t, A), float(v)) for t, v in enumerate(values)))


def _ahead(setting: Setting, process: DecisionSamplingProcess, payoff_B: jax.Array, t: int) -> jax.Array:
    """f[Q, A^t, A]: E[payoff | RESAMPLE at round t + 1 in (h, y)]."""
    return process.values(setting.tables, payoff_B).V[t + 1].reshape(setting.visitation.answer[t].shape)


def _context_sum(setting: Setting, pushes: list[jax.Array]) -> jax.Array:
    """f[Q, H_d, A]: the gradient on the STOP logits from the push per visit of each round, [Q, A^t, A]."""
    joined = jnp.concatenate([setting.visitation.answer[t] * push for t, push in enumerate(pushes)], axis=1)
    if setting.instance.shape.history == "none":
        joined = jnp.sum(joined, axis=1, keepdims=True)
    return setting.slope * joined


def _per_visit(setting: Setting, gradient: jax.Array) -> jax.Array:
    """f[Q, H_d, A]: the gradient over rho pi_stop pi_res."""
    return gradient / _context_sum(setting, [jnp.ones_like(x) for x in setting.visitation.answer[:-1]])


def _direct(setting: Setting, baseline_Q: jax.Array, forced: int = 0) -> jax.Array:
    """The first closed form: what stopping pays per token, less what going on pays."""
    process = setting.instance.process
    n = _lengths(process, forced)
    payoff = _reward(setting.instance, setting.traj, baseline_Q) / _by_round(process, [float(x) for x in n])
    own = process.reward_table[:, None, :] - baseline_Q[:, None, None]
    rounds = range(process.rounds - 1)
    return _context_sum(
        setting, [(own - process.cost * t) / n[t] - _ahead(setting, process, payoff, t) for t in rounds]
    )


class Push(NamedTuple):
    """n_t times the push per visit, in two parts, f[Q, A^t, A] by round."""

    plain: list[jax.Array]  # r - V_(t+1) + c: that of T8
    tilt: list[jax.Array]  # D


def _pushes(setting: Setting, process: DecisionSamplingProcess, baseline_Q: jax.Array, reward_B: jax.Array) -> Push:
    """Both parts for a process with the policy of the setting; `reward_B` is its return."""
    n, r = _lengths(process), process.reward_table[:, None, :]
    excess = reward_B - baseline_Q[setting.traj.prompt[:, 0]]
    plain, tilt = [], []
    for t in range(process.rounds - 1):
        # The library's V counts costs already paid: r - c t stands for R if the decider stops.
        plain.append(r - process.cost * t - _ahead(setting, process, reward_B, t))
        tilt.append(_ahead(setting, process, excess * _by_round(process, [1 - n[t] / m for m in n]), t))
    return Push(plain, tilt)


def _divided(setting: Setting, parts: list[jax.Array]) -> jax.Array:
    """The gradient on the STOP logits from n_t times the push per visit."""
    n = _lengths(setting.instance.process)
    return _context_sum(setting, [x / n[t] for t, x in enumerate(parts)])


def _signed(setting: Setting, gradient: jax.Array) -> jax.Array:
    """Push per visit, positive where it goes the right way (STOP up iff right)."""
    push = _per_visit(setting, gradient)
    return jnp.where(setting.instance.process.reward_table[:, None, :] > 0.5, push, -push)


def _misplaced(measured: jax.Array, plain: jax.Array, tilt: jax.Array) -> jax.Array:
    """How deep an answer lies on the wrong side of the region's edges.

    Args:
      measured: bool, whether the sign differs from that of T8.
      plain: r - (V - c), the distance from one edge.
      tilt: D; the other edge is V - c - D, at distance plain + tilt.
    """
    inside = plain * (plain + tilt) < 0
    return jnp.max(jnp.where(measured != inside, jnp.minimum(jnp.abs(plain), jnp.abs(plain + tilt)), 0.0))


def _joined(parts: list[jax.Array]) -> jax.Array:
    return jnp.concatenate(parts, axis=1)


def check(setting: Setting) -> dict[str, Measured]:
    """Coefficients, both closed forms, signs for binary verifiers, the region for graded ones."""
    instance, traj, logp, _, _, _, b, gradient = setting
    process, shape = instance.process, instance.shape
    lengths = _by_round(process, [float(x) for x in _lengths(process)])
    excess = _reward(instance, traj, b)
    c = coefficients(by_length, logp, traj.replace(reward=excess)) / traj.weight[:, None]
    stated = jnp.where(traj.mask, (excess / lengths)[:, None], 0.0)
    plain, tilt = _pushes(setting, process, b, traj.reward)
    total = [x + d for x, d in zip(plain, tilt, strict=True)]
    measured = {
        COEFFICIENT: Measured(gap(c, stated)),
        FORMULA: Measured(gap(gradient, _direct(setting, b))),
        SPLIT: Measured(gap(gradient, _divided(setting, total))),
    }
    if shape.history == "full":
        reward_gradient = _stop_gradient(instance, traj, reinforce)
        differs = reward_gradient * gradient < 0
        measured[REGION] = Measured(_misplaced(differs, _joined(plain), _joined(tilt)))
    if shape.cost:
        return measured
    at = {value: _stop_gradient(instance, traj, baseline_Q=jnp.full_like(b, value)) for value in (0.0, 1.0)}
    if shape.graded:
        unit = _divided(setting, [jnp.ones_like(x) for x in plain])
        own = _divided(setting, plain)
        margin = jnp.min(jnp.minimum((at[0.0] - own) / unit, (own - at[1.0]) / unit))
        measured[TILT] = Measured(shortfall(margin), margin)
        return measured
    margin = jnp.min(jnp.stack([_signed(setting, g) for g in (*at.values(), gradient)]))
    p = process.values(setting.tables, traj.reward).V[0][:, 0]
    grouped = _stop_gradient(instance, traj, partial(grpo, group_size=GROUP, epsilon=0.0))
    measured[SIGN] = Measured(shortfall(margin), margin)
    measured[GRPO] = Measured(gap(grouped, factor(p, GROUP)[:, None, None] * _direct(setting, p)))
    return measured


def _inside_the_region(setting: Setting) -> DecisionSamplingProcess:
    """The process with the first answer of the first prompt graded so that its sign must flip in round 1 (b = c = 0).

    Pushes are affine in the grade g of that answer and grow with it. At b = c = 0 the push of T8 crosses 0 at a g in
    [0, 1], where the other one is D > 0; so that one crosses 0 at a smaller g, and both disagree in between.
    """
    process, zero = setting.instance.process, jnp.zeros_like(setting.baseline)

    def graded(g: jax.Array | float) -> DecisionSamplingProcess:
        return process.replace(reward_table=process.reward_table.at[0, 0].set(g))

    def push(g: float) -> jax.Array:
        at = graded(g)
        plain, tilt = _pushes(setting, at, zero, at.support().reward)
        return jnp.stack([plain[0][0, 0, 0], plain[0][0, 0, 0] + tilt[0][0, 0, 0]])

    low, high = push(0.0), push(1.0)
    return graded(jnp.mean(-low / (high - low)))


def control(setting: Setting) -> dict[str, jax.Array]:
    """A token too many, a part forgotten, baselines and verifiers for which signs do flip."""
    instance, traj, _, _, _, _, b, gradient = setting
    process, shape = instance.process, instance.shape
    if not shape.saturated:  # nothing keeps a network from being almost certain, and then wrong variants are small
        return {}
    plain, _ = _pushes(setting, process, b, traj.reward)
    errors = {
        CONTROLS[0].name: gap(gradient, _direct(setting, b, forced=1)),
        CONTROLS[1].name: gap(gradient, _divided(setting, plain)),
    }
    if shape.cost:
        return errors
    if not shape.graded:
        outside = _stop_gradient(instance, traj, baseline_Q=jnp.full_like(b, OUTSIDE))
        errors[CONTROLS[2].name] = shortfall(jnp.min(_signed(setting, outside)))
        p = process.values(setting.tables, traj.reward).V[0][:, 0]
        grouped = _stop_gradient(instance, traj, partial(grpo, group_size=GROUP, epsilon=0.0))
        half = factor(p, GROUP)[:, None, None] * _direct(setting, jnp.full_like(p, 0.5))
        errors[CONTROLS[5].name] = gap(grouped, half)
        return errors
    if shape.history == "none":
        return errors
    built = _inside_the_region(setting)
    paid = traj.replace(reward=built.support().reward)
    reward_gradient = _stop_gradient(instance, paid, reinforce)
    divided = _stop_gradient(instance, paid)
    aligned = _per_visit(setting, jnp.where(reward_gradient > 0, divided, -divided))
    plain, tilt = _pushes(setting, built, jnp.zeros_like(b), paid.reward)
    errors[CONTROLS[3].name] = shortfall(jnp.min(aligned))
    errors[CONTROLS[4].name] = _misplaced(reward_gradient * divided < 0, _joined(plain), -_joined(tilt))
    return errors


THEOREM = Theorem(
    id="T13",
    title="Dividing by the response length tilts pi_d",
    statement="(R-b)/|w|: binary, b in [0, 1]: every sign of T8, not its size; graded: STOP iff r > V_(t+1) - c - D",
    provenance="[N]",
    assumptions=(
        "saturated decider; |w| = loss tokens: the forced stop of round T has none",
        "b is one constant a prompt; signs: binary verifier, c = 0, 0 <= b <= 1, visited state, 0 < V_(t+1) < 1",
        "the region: history full, so that one logit serves one round",
    ),
    shapes=(
        Shape(rounds=4, length=1, vocabulary=4, history="none"),
        Shape(rounds=3, length=2, vocabulary=2, graded=True),
        Shape(rounds=3, length=1, vocabulary=5, graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3, network=True),
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, history="none", cost=True),
        Shape(rounds=2, length=4, vocabulary=2, graded=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "T2 and T8 for the payoff (R - b)/n_tau: n_t times the push is r - V_next + c + D. Binary: stopping right "
        "pays (1-b)/n_t, going on at most (1-b)/n_(t+1); stopping wrong pays -b/n_t, going on at least -b/n_(t+1); "
        "n grows with t. Graded: the push of T8 and this one differ in sign iff r lies between their zeros."
    ),
    requires=(RESAMPLES, MIXED_IF_BINARY),
    draw=draw_with_free_decider,
    prepare=prepare,
    check=check,
    control=control,
)

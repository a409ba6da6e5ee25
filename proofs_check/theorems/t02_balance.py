"""T2: a reward objective puts one scalar per trajectory on every factor of both components."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import coefficients, component_gradients
from dsjax.objectives import Objective, SumCount, grpo, reinforce, rloo
from dsjax.policies import log_probs
from dsjax.process import Tables, Values
from dsjax.trajectories import Trajectories
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import SUM, gap
from proofs_check.theorem import Claim, Control, Measured, Theorem

BETA = 0.3  # trajectory KL in the reward
GROUP = 4  # GRPO group size on an exact law

CLAIMS = (
    # One subtraction of two coefficients computed by the same few operations.
    Claim("one coefficient on all factors of a trajectory", SUM),
    Claim("one coefficient on all factors, in a finite batch", SUM),
    Claim("the coefficient is the statement's weight w", SUM),
    Claim("w replaced by the factor's causal advantage: same G_s", SUM),
    Claim("w replaced by the factor's causal advantage: same G_d", SUM),
)
CONTROLS = (
    Control("decision coefficient x 1.01", CLAIMS[0].name),
    Control("decision coefficient x 1.01, finite batch", CLAIMS[1].name),
    Control("decision coefficient x 1.01, expected gradient", CLAIMS[4].name),
    Control("V_t for V_(t+1) in the causal advantage of RESAMPLE", CLAIMS[4].name),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    logp: jax.Array  # f[B, S]
    traj: Trajectories  # the exact law
    batch: Trajectories  # the same trajectories taken as a finite batch of samples
    tables: Tables


def prepare(instance: Instance) -> Setting:
    """The enumerated law, with the reference policy's log-probs."""
    traj, logp = enumerated(instance)
    traj = traj.replace(ref_logp=log_probs(instance.policy, instance.reference, traj))
    batch = traj.replace(exact=False, weight=jnp.full_like(traj.weight, 1.0 / traj.weight.size))
    return Setting(instance, logp, traj, batch, instance.process.tables(logp))


def objectives(instance: Instance, exact: bool) -> dict[str, Objective]:
    """The reward objectives of the library that apply."""
    named: dict[str, Objective] = {
        "reinforce": reinforce,
        "batch mean": partial(reinforce, baseline="batch_mean"),
        "rloo": rloo,
        "trajectory KL": partial(reinforce, baseline="leave_one_out", reward_kl=BETA),
    }
    shape = instance.shape
    # On an exact law GRPO needs the values that the return takes, as static data: binary verifier, no cost.
    if not exact:
        named["grpo"] = grpo
    elif not shape.graded and not shape.cost:
        named["grpo"] = partial(grpo, group_size=GROUP)
    return named


def _spread(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """Largest difference between two coefficients of one trajectory, per unit of its weight."""
    c_BxS = c_BxS / traj.weight[:, None]
    high = jnp.max(jnp.where(traj.mask, c_BxS, -jnp.inf), axis=-1)
    low = jnp.min(jnp.where(traj.mask, c_BxS, jnp.inf), axis=-1)
    return jnp.max(high - low)


def _tilted(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    return jnp.where(traj.decision_mask, 1.01 * c_BxS, c_BxS)


def _weight(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """f[B]: w, read off the first answer token, which every trajectory has."""
    return c_BxS[:, 0] / traj.weight


def _stated_weights(setting: Setting) -> dict[str, jax.Array]:
    """w(tau) of each statement, from prompt-wise sums written here."""
    instance, logp, traj, _, _ = setting
    Q, mu = instance.process.num_prompts, instance.process.prompt_law
    assert traj.ref_logp is not None
    shaped = traj.reward - BETA * jnp.sum(jnp.where(traj.mask, logp - traj.ref_logp, 0.0), -1)
    of_prompt = jax.nn.one_hot(traj.prompt[:, 0], Q, dtype=traj.weight.dtype)

    def at_prompt(x: jax.Array) -> jax.Array:
        mean_Q = jnp.sum(of_prompt * (traj.weight * x)[:, None], 0) / mu
        return jnp.sum(of_prompt * mean_Q[None, :], -1)

    return {
        "reinforce": traj.reward,
        "batch mean": traj.reward - jnp.sum(traj.weight * traj.reward),
        "rloo": traj.reward - at_prompt(traj.reward),
        "trajectory KL": shaped - at_prompt(shaped),
    }


def _causal(setting: Setting, w_B: jax.Array, edit: Callable[[Values], Values] = lambda v: v) -> Objective:
    """Surrogate in which every factor carries its own advantage, for the payoff w."""
    process = setting.instance.process
    advantage = process.token_advantages(edit(process.values(setting.tables, w_B)))

    def objective(logp: jax.Array, traj: Trajectories) -> SumCount:
        total = jnp.sum(jnp.where(traj.mask, advantage * logp, 0.0), -1)
        return -jnp.sum(traj.weight * total), jnp.sum(traj.weight)

    return objective


def _late_baseline(values: Values) -> Values:
    """The wrong advantage: V_t - U_t for RESAMPLE."""
    wrong = [v[..., None] - u for v, u in zip(values.V[:-1], values.U[:-1], strict=True)]
    return values.replace(advantage_resample=tuple(wrong))


def check(setting: Setting) -> dict[str, Measured]:
    """Equal coefficients (exact law and finite batch), their value, and causal replacement, for every objective."""
    instance, logp, traj, batch, _ = setting
    stated = _stated_weights(setting)
    errors: dict[str, list[jax.Array]] = {claim.name: [] for claim in CLAIMS}
    for name, objective in objectives(instance, exact=True).items():
        c = coefficients(objective, logp, traj)
        errors[CLAIMS[0].name].append(_spread(c, traj))
        if name in stated:
            errors[CLAIMS[2].name].append(gap(_weight(c, traj), stated[name]))
        plain = component_gradients(instance.policy, instance.params, traj, objective)
        causal = component_gradients(instance.policy, instance.params, traj, _causal(setting, _weight(c, traj)))
        errors[CLAIMS[3].name].append(gap(causal.sample, plain.sample))
        errors[CLAIMS[4].name].append(gap(causal.decision, plain.decision))
    for objective in objectives(instance, exact=False).values():
        errors[CLAIMS[1].name].append(_spread(coefficients(objective, logp, batch), batch))
    return {name: Measured(jnp.max(jnp.stack(values))) for name, values in errors.items()}


def control(setting: Setting) -> dict[str, jax.Array]:
    """A decision coefficient that is 1% off, and an advantage that is one round off."""
    instance, logp, traj, batch, _ = setting
    policy, params = instance.policy, instance.params
    plain = component_gradients(policy, params, traj, reinforce)
    causal = component_gradients(policy, params, traj, _causal(setting, traj.reward))
    late = component_gradients(policy, params, traj, _causal(setting, traj.reward, _late_baseline))
    errors = (
        _spread(_tilted(coefficients(reinforce, logp, traj), traj), traj),
        _spread(_tilted(coefficients(grpo, logp, batch), batch), batch),
        gap(jax.tree.map(lambda g: 1.01 * g, causal.decision), plain.decision),
        gap(late.decision, plain.decision),
    )
    return {c.name: error for c, error in zip(CONTROLS, errors, strict=True)}


THEOREM = Theorem(
    id="T2",
    title="Balanced coefficients of the surrogate reward",
    statement="one scalar weight per trajectory = one coefficient on every factor of pi_sample and pi_d",
    provenance="[P/R]",
    assumptions=(
        "on-policy gradient of E[w(tau) sum_factors log pi], w data: any function of the whole trajectory",
        "the causal advantage is that of the payoff w, not of R",
    ),
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, graded=True, cost=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=2, prompts=2, shared=9),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "d/d log pi of w sum log pi is w for every factor. Given what was known before a factor, E[w score] changes "
        "by nothing when w is replaced by its conditional mean after the factor minus that before it: the causal "
        "advantage of the payoff w."
    ),
    prepare=prepare,
    check=check,
    control=control,
)

"""T2: a reward objective puts one scalar per trajectory on every factor of both components."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import ComponentGradients, coefficients
from dsjax.objectives import Objective, grpo, reinforce, rloo
from dsjax.policies import log_probs
from dsjax.process import DecisionSamplingProcess, Values
from dsjax.trajectories import Trajectories
from proofs_check.coefficients import gradients_of
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
    found: dict[str, jax.Array]  # coefficients f[B, S] of the objectives on the exact law
    plain: ComponentGradients  # with those, one row an objective
    causal: ComponentGradients  # with causal advantages of the same payoffs
    late: ComponentGradients  # of REINFORCE, with an advantage one round off


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
    instance, logp, traj = setting.instance, setting.logp, setting.traj
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


def _causal(process: DecisionSamplingProcess, values: Values, traj: Trajectories) -> jax.Array:
    """f[B, S]: coefficients with which every factor carries its own advantage."""
    return traj.weight[:, None] * process.token_advantages(values)


def _late_baseline(values: Values) -> Values:
    """The wrong advantage: V_t - U_t for RESAMPLE."""
    wrong = [v[..., None] - u for v, u in zip(values.V[:-1], values.U[:-1], strict=True)]
    return values.replace(advantage_resample=tuple(wrong))


def prepare(instance: Instance) -> Setting:
    """The enumerated law; coefficients and gradients, also with causal advantages in their place."""
    process = instance.process
    traj, logp = enumerated(instance)
    traj = traj.replace(ref_logp=log_probs(instance.policy, instance.reference, traj))
    batch = traj.replace(exact=False, weight=jnp.full_like(traj.weight, 1.0 / traj.weight.size))
    tables = process.tables(logp)
    found = {n: coefficients(objective, logp, traj) for n, objective in objectives(instance, exact=True).items()}
    plain = jnp.stack(list(found.values()))
    causal = jax.vmap(lambda c: _causal(process, process.values(tables, _weight(c, traj)), traj))(plain)
    late = _causal(process, _late_baseline(process.values(tables, traj.reward)), traj)
    gradients = gradients_of(instance.policy, instance.params, traj, jnp.concatenate([plain, causal, late[None]]))
    n = len(found)
    parts = (slice(0, n), slice(n, 2 * n), slice(2 * n, None))
    return Setting(instance, logp, traj, batch, found, *(jax.tree.map(lambda x, p=p: x[p], gradients) for p in parts))


def check(setting: Setting) -> dict[str, Measured]:
    """Equal coefficients (exact law and finite batch), their value, and causal replacement, for every objective."""
    instance, logp, traj, batch, found, plain, causal, _ = setting
    stated = _stated_weights(setting)
    equal = [_spread(c, traj) for c in found.values()]
    sampled = [_spread(coefficients(f, logp, batch), batch) for f in objectives(instance, exact=False).values()]
    weights = [gap(_weight(found[name], traj), w) for name, w in stated.items()]
    errors = (
        jnp.max(jnp.stack(equal)),
        jnp.max(jnp.stack(sampled)),
        jnp.max(jnp.stack(weights)),
        jnp.max(jax.vmap(gap)(causal.sample, plain.sample)),
        jnp.max(jax.vmap(gap)(causal.decision, plain.decision)),
    )
    return {claim.name: Measured(error) for claim, error in zip(CLAIMS, errors, strict=True)}


def control(setting: Setting) -> dict[str, jax.Array]:
    """A decision coefficient that is 1% off, and an advantage that is one round off."""
    instance, logp, traj, batch, found, plain, causal, late = setting
    if not instance.shape.saturated:  # nothing keeps a network from being almost certain, and then these are small
        return {}
    row = list(found).index("reinforce")
    exact, replaced = (jax.tree.map(lambda x: x[row], g.decision) for g in (plain, causal))
    errors = (
        _spread(_tilted(found["reinforce"], traj), traj),
        _spread(_tilted(coefficients(grpo, logp, batch), batch), batch),
        gap(jax.tree.map(lambda g: 1.01 * g, replaced), exact),
        gap(jax.tree.map(lambda g: g[0], late.decision), exact),
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
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, shared=9),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=1, length=3, vocabulary=4, prompts=2, graded=True, shared=4),
        Shape(rounds=1, length=4, vocabulary=2, prompts=2, shared=4),
        Shape(rounds=1, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=1, length=6, vocabulary=2, history="none", shared=4),
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

"""T3: the variance of the return is the energy budget of the reward gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients, energies
from dsjax.objectives import reinforce
from dsjax.process import Tables, Values, Visitation
from dsjax.trajectories import Trajectories
from proofs_check.closed_forms import martingale_energies
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import ENERGY, SUM, gap, shortfall
from proofs_check.theorem import Claim, Control, Measured, Theorem

CLAIMS = (
    Claim("Var(R) = Var_q[V_1] + sum E[(A^s)^2] + sum E[(A^d)^2]", SUM),
    Claim("E_s <= sum E[(A^s)^2]", ENERGY),
    Claim("E_d <= sum E[(A^d)^2]", ENERGY),
    Claim("E_s = sum E[(A^s)^2], a softmax per context and round", ENERGY),
    Claim("E_d = sum E[(A^d)^2], a softmax per context and round", ENERGY),
    Claim("E_s < sum E[(A^s)^2], one softmax for several rounds", ENERGY, strict=True),
    Claim("E_d < sum E[(A^d)^2], one softmax for several rounds", ENERGY, strict=True),
    Claim("one softmax for several rounds: energy of the round-averaged advantage", ENERGY),
    Claim("E_s + E_d <= Var(R)", ENERGY),
    Claim("Var(R) <= 1/4 for rewards in [0, 1] and c = 0", SUM),
    # A network's Fisher matrix can have any small eigenvalue x. Its gradient has a part <= |A| sqrt(x) along that
    # direction, with rounding EPS: the energy is off by 2 EPS/sqrt(x), x above the rank cut 8 P EPS: 1e-9 for P <= 100,
    # times sqrt(P) directions.
    Claim("transformer: E_s and E_d within their bounds, E_s + E_d <= Var(R)", 1e-8),
)
(CONSERVED, BOUND_S, BOUND_D, EQUAL_S, EQUAL_D, STRICT_S, STRICT_D, AVERAGED, BUDGET, QUARTER, NETWORK) = (
    c.name for c in CLAIMS
)
CONTROLS = (
    Control("V_t for V_(t+1) in the advantage of RESAMPLE", CONSERVED),
    Control("Var_q[V_1] left out", CONSERVED),
    Control("equality claimed for a sampler that cannot see the round", EQUAL_S),
    Control("equality claimed for a decider that cannot see the round", EQUAL_D),
    Control("equality claimed for shared parameters", EQUAL_S),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories
    tables: Tables
    values: Values
    visitation: Visitation
    energy: tuple[jax.Array, jax.Array]  # (E_s, E_d) of grad J
    sum_squares: tuple[jax.Array, jax.Array]  # (sum E[(A^s)^2], sum E[(A^d)^2])
    variance: jax.Array  # Var(R)
    between: jax.Array  # Var_q[V_1]


def variance(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Variance of x under a law."""
    return jnp.sum(weight * (x - jnp.sum(weight * x)) ** 2)


def prepare(instance: Instance) -> Setting:
    """Values, visits, measured energies and both sides of the decomposition."""
    process, policy, params = instance.process, instance.policy, instance.params
    traj, logp = enumerated(instance)
    tables = process.tables(logp)
    values, visitation = process.values(tables, traj.reward), process.visitation(tables)
    return Setting(
        instance,
        traj,
        tables,
        values,
        visitation,
        energies(policy, params, traj, component_gradients(policy, params, traj, reinforce)),
        martingale_energies(process, tables, values, visitation),
        variance(traj.weight, traj.reward),
        variance(process.prompt_law, values.V[0][:, 0]),
    )


def sees_rounds(shape: Shape) -> tuple[bool, bool]:
    """Whether (sampler, decider) of a tabular policy have a softmax for each context *and round*.

    Without history they do only if no softmax serves two rounds: T = 1 for the sampler, T <= 2 for the decider, which
    does not act in round T.
    """
    return shape.history == "full" or shape.rounds == 1, shape.history == "full" or shape.rounds <= 2


def _bound(slack: jax.Array, tight: bool) -> Measured:
    """slack >= 0; no margin where the statement says that the slack is 0."""
    return Measured(shortfall(slack), None if tight else slack)


def check(setting: Setting) -> dict[str, Measured]:
    """Decomposition, energy bounds, equality where each softmax serves one round, strict slack where not."""
    instance, _, tables, values, visitation, (E_s, E_d), (S, D), var, between = setting
    shape = instance.shape
    sampler_sees, decider_sees = sees_rounds(shape)
    tight_s, tight_d = sampler_sees and shape.saturated, decider_sees and shape.saturated
    measured = {CONSERVED: Measured(gap(between + S + D, var))}
    if shape.network:
        slack = jnp.minimum(jnp.minimum(S - E_s, D - E_d), var - E_s - E_d)
        return {**measured, NETWORK: Measured(shortfall(slack))}
    measured |= {
        BOUND_S: _bound(S - E_s, tight_s),
        BOUND_D: _bound(D - E_d, tight_d),
        BUDGET: _bound(var - E_s - E_d, tight_s and tight_d and shape.prompts == 1),
    }
    if not shape.cost:
        measured[QUARTER] = _bound(0.25 - var, tight=False)
    if not shape.saturated:
        return measured
    if sampler_sees:
        measured[EQUAL_S] = Measured(gap(E_s, S))
    else:
        measured[STRICT_S] = _bound(S - E_s, tight=False)
    if decider_sees:
        measured[EQUAL_D] = Measured(gap(E_d, D))
    else:
        measured[STRICT_D] = _bound(D - E_d, tight=False)
    if shape.history == "none":
        averaged = martingale_energies(instance.process, tables, values, visitation, merged=True)
        measured[AVERAGED] = Measured(gap((E_s, E_d), averaged))
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """An advantage one round off, a missing term, and equality where the parametrisation is too small for it."""
    instance, _, tables, values, visitation, (E_s, E_d), (S, D), var, between = setting
    shape = instance.shape
    errors = {}
    if shape.network:  # it can be almost certain, or rich enough for equality
        return errors
    if shape.rounds >= 2:
        wrong = [v[..., None] - u for v, u in zip(values.V[:-1], values.U[:-1], strict=True)]
        off = values.replace(advantage_resample=tuple(wrong))
        off_s, off_d = martingale_energies(instance.process, tables, off, visitation)
        errors[CONTROLS[0].name] = gap(between + off_s + off_d, var)
    # Two prompts can have values that agree by chance to the square root of the tolerance; three do not.
    if shape.prompts >= 3:
        errors[CONTROLS[1].name] = gap(S + D, var)
    sampler_sees, decider_sees = sees_rounds(shape)
    if shape.shared:
        errors[CONTROLS[4].name] = gap(E_s, S)
        return errors
    if not sampler_sees:
        errors[CONTROLS[2].name] = gap(E_s, S)
    if not decider_sees:
        errors[CONTROLS[3].name] = gap(E_d, D)
    return errors


THEOREM = Theorem(
    id="T3",
    title="Conservation of reward energy",
    statement="Var(R) = Var_q[V_1] + sum E[(A^s)^2] + sum E[(A^d)^2] >= Var_q[V_1] + E_s + E_d; = if saturated",
    provenance="[N]",
    assumptions=(
        "any parametrisation for the bounds",
        "equality: one softmax per context and round (history `full`; or T = 1 for pi_sample, T <= 2 for pi_d)",
    ),
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, graded=True, cost=True),
        Shape(rounds=2, length=1, vocabulary=4, prompts=3),
        # The slack is quadratic in differences of values between rounds; over three prompts they are not all small.
        Shape(rounds=3, length=1, vocabulary=3, prompts=3, history="none"),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=4, length=1, vocabulary=2, history="none", cost=True, shared=4),
        Shape(rounds=2, length=3, vocabulary=2, history="none", graded=True),
        Shape(rounds=1, length=2, vocabulary=5, graded=True, shared=4),
        Shape(rounds=1, length=4, vocabulary=2, prompts=2, shared=4),
        Shape(rounds=1, length=5, vocabulary=2, history="none", shared=4),
        Shape(rounds=1, length=6, vocabulary=2, history="none", shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "R - J telescopes into changes of the conditional mean of R as one variable after the other is revealed; such"
        " changes are uncorrelated, so variances add. G_c is the gradient with coefficient A^c, and G^T F^+ G is the "
        "squared length of the projection of A^c onto the span of the scores."
    ),
    prepare=prepare,
    check=check,
    control=control,
)

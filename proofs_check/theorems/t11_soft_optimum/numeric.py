"""T11: the optimum of J - beta KL tilts each factor by its advantage over beta, answers and decisions alike."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients
from dsjax.objectives import reward_with_kl
from dsjax.policies import Params, log_probs
from dsjax.process import DecisionSamplingProcess, Tables
from dsjax.trajectories import Trajectories
from proofs_check.closed_forms import tree_logits
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY
from proofs_check.theorem import Claim, Control, Measured, Theorem
from proofs_check.theorems.t07_kl_tax.numeric import kl_to_go, with_trajectory_kl

# A gradient entry is a sum over trajectories of probability x coefficient x score. |score| <= 1, the probabilities add
# up to 1, and at the optimum the coefficient is one constant of order one a prompt, up to the rounding of R - beta Lam.
# That is beta x (S log-probs of order 3) x EPS <= 6 x 30 x EPS; weights are good to 30 EPS and the sum over B <= 100
# trajectories adds B EPS: 7e-14 together.
ZERO = 1e-12

CLAIMS = (
    Claim("gradient of J - beta KL(P || P_ref) on pi_sample is 0 at the soft-Bellman policy", ZERO),
    Claim("gradient of J - beta KL(P || P_ref) on pi_d is 0 at the soft-Bellman policy", ZERO),
    Claim("R - beta Lam = V*_1(q) on every single trajectory of the soft-Bellman policy", SUM),
    Claim("J - beta KL(P || P_ref) at the soft-Bellman policy = soft value", SUM),
    Claim("any policy: soft value - (J - beta KL(P || P_ref)) = beta KL(P || P*)", SUM),
    Claim("no history, T >= 2: the tilt of round 1 in every round is below the soft value", SUM, strict=True),
    Claim("per answer: |beta log(pi*/pi_ref) - A^s| <= w^2/(8 beta)", SUM),
    Claim("per decision: |beta log(pi*/pi_ref) - A^d| <= w^2/(8 beta)", SUM),
    Claim("KL(P* || P_ref) <= w^2/(8 beta^2), whatever L", SUM),
)
(ZERO_S, ZERO_D, CONSTANT, VALUE, REGRET, BLIND, TILT_S, TILT_D, DRIFT) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("beta 1% off", ZERO_S),
    Control("tilt by the reference's hard values", ZERO_S),
    Control("decider left at its reference", ZERO_D),
    Control("no history: the tilt of round 1 in every round", ZERO_S),
    Control("penalty left out of the objective", REGRET),
    Control("advantage over beta on every token of the answer", TILT_S),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories  # exact law of the instance's policy, with the reference's log-probs
    beta: jax.Array
    tables: Tables  # of the instance's policy
    reference: Tables
    soft_value: tuple[jax.Array, ...]  # V*_t(h) to go, T arrays [Q, A^t]
    soft: Tables  # the soft-Bellman policy by rounds
    star: Params | None  # the same as logits, for tables; without history, the tilts of round 1


def soft_bellman(
    process: DecisionSamplingProcess, reference: Tables, beta: jax.Array
) -> tuple[tuple[jax.Array, ...], Tables]:
    """(V*, policy): `U* = beta log E_ref[exp(Q*/beta)]`, `V* = beta log E_ref[exp(U*/beta)]`, values to go.

    `Q*(STOP) = r` and `Q*(RESAMPLE) = V*_(t+1) - c`; the policy is `pi_ref exp((Q* - U*)/beta)` for decisions and
    `pi_ref exp((U* - V*)/beta)` for answers.
    """
    r = process.reward_table[:, None, :]
    V: list[jax.Array] = []
    sample, stop, resample = [], [], []
    for t in reversed(range(process.rounds)):
        log_sample = reference.log_sample[t]
        scaled = jnp.broadcast_to(r / beta, log_sample.shape)  # U*/beta
        if t < process.rounds - 1:
            keep = reference.log_stop[t] + scaled
            go = reference.log_resample[t] + (V[0].reshape(log_sample.shape) - process.cost) / beta
            scaled = jnp.logaddexp(keep, go)
            stop.insert(0, keep - scaled)
            resample.insert(0, go - scaled)
        log_mass = jax.nn.logsumexp(log_sample + scaled, axis=-1)
        sample.insert(0, log_sample + scaled - log_mass[..., None])
        V.insert(0, beta * log_mass)
    return tuple(V), Tables(tuple(sample), tuple(stop), tuple(resample))


def as_logits(process: DecisionSamplingProcess, tables: Tables) -> Params:
    """Logits of a `SaturatedPolicy` with these laws; without history, with those of round 1."""
    last = None if process.history == "full" else 1
    decisions = [jnp.stack(pair, -1) for pair in zip(tables.log_stop, tables.log_resample, strict=True)][:last]
    if not decisions:
        decisions = [jnp.zeros((*tables.log_sample[0].shape, 2), tables.log_sample[0].dtype)]
    return {
        "sample": tree_logits(process, jnp.concatenate(tables.log_sample[:last], axis=1)),
        "decision": jnp.concatenate(decisions, axis=1),
    }


def _hard(setting: Setting) -> Tables:
    """Tilt by the values of the reference itself: pi_ref exp(A/beta) up to the constant of each context."""
    process, reference, beta = setting.instance.process, setting.reference, setting.beta
    values = process.values(reference, setting.traj.reward)

    def tilt(tilted: jax.Array, *others: jax.Array) -> jax.Array:
        return tilted - jax.nn.logsumexp(jnp.stack([tilted, *others]), axis=0)

    sample, stop, resample = [], [], []
    for t in range(process.rounds):
        answer = reference.log_sample[t] + values.U[t] / beta
        sample.append(answer - jax.nn.logsumexp(answer, axis=-1, keepdims=True))
        if t < process.rounds - 1:
            keep = reference.log_stop[t] + values.advantage_stop[t] / beta
            go = reference.log_resample[t] + values.advantage_resample[t] / beta
            stop.append(tilt(keep, go))
            resample.append(tilt(go, keep))
    return Tables(tuple(sample), tuple(stop), tuple(resample))


def prepare(instance: Instance) -> Setting:
    """The soft-Bellman policy of a random reference and temperature."""
    process = instance.process
    # From strong tilts to weak ones; at 0.6 an answer can gain a factor exp(1/0.6) = 5 on another.
    beta = jnp.exp(jax.random.uniform(instance.key, (), minval=jnp.log(0.6), maxval=jnp.log(6.0)))
    traj, logp = enumerated(instance)
    ref_logp = log_probs(instance.policy, instance.reference, traj)
    reference = process.tables(ref_logp)
    soft_value, soft = soft_bellman(process, reference, beta)
    traj = traj.replace(ref_logp=ref_logp)
    star = as_logits(process, soft) if instance.shape.saturated else None
    return Setting(instance, traj, beta, process.tables(logp), reference, soft_value, soft, star)


def _at(setting: Setting, params: Params) -> Trajectories:
    """The law of all trajectories under other parameters."""
    process, traj = setting.instance.process, setting.traj
    return traj.under(log_probs(setting.instance.policy, params, traj), process.prompt_law[traj.group])


def _gradients(setting: Setting, params: list[Params], betas: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Largest entry of (G_s, G_d) of J - beta KL at each of the parameters, f[N] each."""
    policy = setting.instance.policy

    def one(p: Params, beta: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = component_gradients(policy, p, _at(setting, p), with_trajectory_kl(beta))
        zero = jax.tree.map(jnp.zeros_like, p)
        return gap(found.sample, zero), gap(found.decision, zero)

    return jax.vmap(one)(jax.tree.map(lambda *x: jnp.stack(x), *params), jnp.stack(betas))


def _soft_objective(setting: Setting) -> jax.Array:
    """V* = sum_q mu(q) V*_1(q)."""
    return jnp.sum(setting.instance.process.prompt_law * setting.soft_value[0][:, 0])


def _objective(setting: Setting, traj: Trajectories) -> jax.Array:
    """J - beta KL(P || P_ref), with the library's KL in the reward."""
    return jnp.sum(traj.weight * reward_with_kl(traj, setting.beta))


def _slack(setting: Setting, log_ratio: jax.Array, advantage: jax.Array, t: int) -> jax.Array:
    """min of w^2/(8 beta) - |beta log-ratio - advantage|; w = 1 + c (T - t), the range of the return to go."""
    process, beta = setting.instance.process, setting.beta
    width = 1.0 + process.cost * (process.rounds - 1 - t)
    return jnp.min(width**2 / (8.0 * beta) - jnp.abs(beta * log_ratio - advantage))


def _tilt(setting: Setting, tables: Tables, tokens: float = 1.0) -> tuple[jax.Array, jax.Array | None]:
    """Least slack over all (answers, decisions), None without decisions; `tokens` multiplies A^s."""
    process, reference = setting.instance.process, setting.reference
    values, T = process.values(reference, setting.traj.reward), process.rounds
    answers = [
        _slack(setting, tables.log_sample[t] - reference.log_sample[t], tokens * values.advantage_sample[t], t)
        for t in range(T)
    ]
    decisions = [
        _slack(setting, new[t] - old[t], advantage[t], t)
        for new, old, advantage in (
            (tables.log_stop, reference.log_stop, values.advantage_stop),
            (tables.log_resample, reference.log_resample, values.advantage_resample),
        )
        for t in range(T - 1)
    ]
    return jnp.min(jnp.stack(answers)), jnp.min(jnp.stack(decisions)) if decisions else None


def expressible(shape: Shape) -> bool:
    """Whether a tabular policy can give each round its own tilt."""
    return shape.history == "full" or shape.rounds == 1


def check(setting: Setting) -> dict[str, Measured]:
    """The regret of any policy; at the optimum: no gradient, a payoff without variance, tilts of advantage/beta."""
    instance, traj, beta, tables, reference, soft_value, soft, star = setting
    process, V = instance.process, _soft_objective(setting)
    regret = jnp.sum(process.prompt_law * kl_to_go(process, tables, soft)[0][:, 0])
    measured = {REGRET: Measured(gap(V - _objective(setting, traj), beta * regret))}
    if star is None:  # what follows needs a policy that can be put at the optimum
        return measured
    law = _at(setting, star)
    if not expressible(instance.shape):
        short = V - _objective(setting, law)
        return {**measured, BLIND: Measured(shortfall(short), short)}
    (zero_s,), (zero_d,) = _gradients(setting, [star], [beta])
    assert law.old_logp is not None
    found = process.tables(law.old_logp)  # what the logits give, not what they were made from
    answers, decisions = _tilt(setting, found)
    width = 1.0 + process.cost * (process.rounds - 1)
    drift = jnp.sum(process.prompt_law * kl_to_go(process, found, reference)[0][:, 0])
    room = width**2 / (8.0 * beta**2) - drift
    measured |= {
        ZERO_S: Measured(zero_s),
        ZERO_D: Measured(zero_d),
        CONSTANT: Measured(gap(reward_with_kl(law, beta), soft_value[0][:, 0][traj.group])),
        VALUE: Measured(gap(_objective(setting, law), V)),
        TILT_S: Measured(shortfall(answers), answers),
        DRIFT: Measured(shortfall(room), room),
    }
    if decisions is not None:
        measured[TILT_D] = Measured(shortfall(decisions), decisions)
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """Temperature, values, components and rounds that are each slightly wrong."""
    instance, traj, beta, tables, _, _, soft, star = setting
    process, shape = instance.process, instance.shape
    if star is None:  # nothing keeps a network from being almost certain
        return {}
    regret = jnp.sum(process.prompt_law * kl_to_go(process, tables, soft)[0][:, 0])
    unpenalised = jnp.sum(traj.weight * traj.reward)
    errors = {CONTROLS[4].name: gap(_soft_objective(setting) - unpenalised, beta * regret)}
    if not expressible(shape):
        errors[CONTROLS[3].name] = _gradients(setting, [star], [beta])[0][0]
        return errors
    hard = as_logits(process, _hard(setting))
    half = {**star, "decision": instance.reference["decision"]}
    G_s, G_d = _gradients(setting, [star, hard, half], [1.01 * beta, beta, beta])
    errors[CONTROLS[0].name] = G_s[0]
    if shape.rounds >= 2:  # in the last round soft and hard values agree, and nothing is decided
        errors |= {CONTROLS[1].name: G_s[1], CONTROLS[2].name: G_d[2]}
    # In the last round some answer has |A| >= 1/2, and from beta = 0.6 that is more than the bound's two sides.
    if shape.length >= 2 and not shape.graded:
        errors[CONTROLS[5].name] = shortfall(_tilt(setting, soft, tokens=float(shape.length))[0])
    return errors


THEOREM = Theorem(
    id="T11",
    title="The KL-regularised optimum tilts both components alike",
    statement="argmax J - beta KL(P || P_ref): pi_ref exp(advantage/beta) on every factor, to first order, whatever L",
    provenance="[N]",
    assumptions=(
        "trajectory KL; tables with a law of its own for each round and history (saturated, history `full` or T = 1)",
        "exactly: soft advantages; to first order: those of the reference, to w^2/(8 beta^2) in log-probability",
        "w = 1 + c (T - t): range of the return to go",
        "regret = beta KL(P || P*) holds for every policy, saturated or not",
    ),
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, prompts=2, graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3),
        Shape(rounds=2, length=3, vocabulary=2, prompts=3, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=5, graded=True, cost=True, network=True),
        Shape(rounds=4, length=1, vocabulary=4, shared=4),
        Shape(rounds=1, length=4, vocabulary=2, history="none", graded=True),
        Shape(rounds=1, length=5, vocabulary=2, prompts=2),
        Shape(rounds=1, length=6, vocabulary=2, history="none"),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "The tilted factors multiply to P* = P_ref exp((R - V*)/beta), so R - beta log P/P_ref = V* - beta log P/P* on "
        "each trajectory and J - beta KL = V* - beta KL(P || P*). log pi*/pi_ref is the soft advantage over beta; by "
        "Hoeffding's lemma soft values exceed hard ones by at most w^2/(8 beta)."
    ),
    requires=(MIXED_IF_BINARY,),
    prepare=prepare,
    check=check,
    control=control,
)

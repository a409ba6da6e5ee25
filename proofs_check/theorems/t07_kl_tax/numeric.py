"""T7: with the trajectory KL in the reward, RESAMPLE pays for everything that is still to be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import component_gradients
from dsjax.objectives import Objective, SumCount, own_token_kl, reinforce
from dsjax.policies import Params, log_probs
from dsjax.process import DecisionSamplingProcess, Tables, Values
from dsjax.trajectories import STOP, Trajectories
from proofs_check.instances import Instance, Numbers, Shape, draw_with_free_decider, enumerated
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem

CLAIMS = (
    Claim("trajectory KL in the reward: gradient of the exact J - beta KL(P || P_ref) on the decider", SUM),
    Claim("STOP: sum of rho pi_stop pi_res [r - V + c + beta K - beta (log-ratio STOP - log-ratio RESAMPLE)]", SUM),
    Claim("RESAMPLE: the negative of that", SUM),
    Claim("own-token KL: the same without beta K", SUM),
    Claim("trajectory less own-token KL: beta K per visit, > 0", SUM, strict=True),
    Claim("homogeneous drift: K = L k_s E[answers to go] + k_d E[decisions to go]", SUM),
    # Per visit, in units of max(1, beta): the gradient is exact to SUM/100 of rho pi_stop pi_res max(1, beta).
    Claim("decision at its reference: STOP pushed up iff r - V + c + beta K > 0, on both sides", SUM, strict=True),
)
(EXACT, FORMULA, NEGATIVE, OWN, TAX, GROWTH, FLIP) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("K dropped", FORMULA),
    Control("K_t for K_(t+1)", FORMULA),
    Control("V_t for V_(t+1)", FORMULA),
    Control("log-ratio term left out", FORMULA),
    Control("own-token KL said to carry the same tax", OWN),
    Control("own-token KL said to turn the push beyond the boundary", FLIP),
    Control("K said not to grow with L", GROWTH),
)
STEP = 0.01  # relative distance from a boundary at which its two sides are read
GENERAL, BELOW, ABOVE, EVEN = range(4)  # the cases of `Setting.trajectory` and `Setting.own`


class Parts(NamedTuple):
    """What the statement adds up, f[Q, H_d, A] by the decider's context; each is summed over visits.

    STOP gradient = reward + beta (tax - ratio).
    """

    visits: jax.Array  # rho pi_stop pi_res
    reward: jax.Array  # rho pi_stop pi_res (r - V_(t+1) + c)
    tax: jax.Array  # rho pi_stop pi_res K_(t+1)
    ratio: jax.Array  # rho pi_stop pi_res (log-ratio STOP - log-ratio RESAMPLE)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    tables: Tables
    reference: Tables
    values: Values  # of the return
    beta: jax.Array
    parts: Parts
    at_reference: Parts  # decider at its reference everywhere: no `ratio`, and a K of answers alone
    betas: jax.Array  # f[2] just below the first boundary and just above the last, decider at its reference
    homogeneous: jax.Array | None  # f[Q, H_d, A] the tax in closed form for homogeneous drift (tables only)
    lengthless: jax.Array | None  # the same with L = 1
    trajectory: jax.Array  # f[3 or 4, Q, H_d, A, 2] measured: general, below, above and, of tables, homogeneous
    own: jax.Array  # the same with own-token KL
    exact: jax.Array  # f[Q, H_d, A, 2] autodiff of J - beta KL(P || P_ref), general


def kl_to_go(process: DecisionSamplingProcess, tables: Tables, reference: Tables) -> tuple[jax.Array, ...]:
    """K_t(h), T arrays [Q, A^t]: `K_t = KL_s + E[KL_d + pi_res K_(t+1)]`, no decision at t = T."""
    K: list[jax.Array] = []
    for t in reversed(range(process.rounds)):
        total = tables.log_sample[t] - reference.log_sample[t]
        if t < process.rounds - 1:
            stop, resample = tables.log_stop[t], tables.log_resample[t]
            later = resample - reference.log_resample[t] + K[0].reshape(resample.shape)
            total = total + jnp.exp(stop) * (stop - reference.log_stop[t]) + jnp.exp(resample) * later
        K.insert(0, jnp.sum(jnp.exp(tables.log_sample[t]) * total, -1))
    return tuple(K)


def _expected_left(process: DecisionSamplingProcess, tables: Tables) -> tuple[list[jax.Array], list[jax.Array]]:
    """(E[answers to go], E[decisions to go]) at each history, T arrays [Q, A^t] each."""
    one = jnp.ones_like(tables.log_sample[-1][..., 0])
    answers, decisions = [one], [jnp.zeros_like(one)]
    for t in reversed(range(process.rounds - 1)):
        going = jnp.exp(tables.log_sample[t] + tables.log_resample[t])
        for left in (answers, decisions):
            left.insert(0, 1.0 + jnp.sum(going * left[0].reshape(going.shape), -1))
    return answers, decisions


def _merged(shape: Shape, blocks: list[jax.Array]) -> jax.Array:
    """f[Q, H_d, A] from one [Q, A^t, A] a round of decisions: added up where one logit serves all rounds."""
    joined = jnp.concatenate(blocks, axis=1)
    return jnp.sum(joined, axis=1, keepdims=True) if shape.history == "none" else joined


def _parts(
    instance: Instance, tables: Tables, reference: Tables, V: tuple[jax.Array, ...], K: tuple[jax.Array, ...]
) -> Parts:
    """The statement's sums, from V to go and K to go of the next round, T - 1 arrays that broadcast to [Q, A^t, A]."""
    process = instance.process
    rho, r = process.visitation(tables).answer, process.reward_table[:, None, :]
    visits, reward, tax, ratio = [], [], [], []
    for t in range(process.rounds - 1):
        stop, resample = tables.log_stop[t], tables.log_resample[t]
        visits.append(rho[t] * jnp.exp(stop + resample))
        reward.append(visits[t] * (r - V[t] + process.cost))
        tax.append(visits[t] * K[t])
        ratio.append(visits[t] * ((stop - reference.log_stop[t]) - (resample - reference.log_resample[t])))
    return Parts(*(_merged(instance.shape, blocks) for blocks in (visits, reward, tax, ratio)))


def _next(x: tuple[jax.Array, ...], like: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Round t + 1's entry of the history (h_t, y_t), T - 1 arrays [Q, A^t, A]."""
    return tuple(after.reshape(now.shape) for after, now in zip(x[1:], like[:-1], strict=True))


def _to_go(process: DecisionSamplingProcess, values: Values) -> tuple[jax.Array, ...]:
    """V_t(h) of the theory: the library's V counts costs already paid, so they are added back."""
    return tuple(V + process.cost * t for t, V in enumerate(values.V))


def tilted(direction: jax.Array, logits: jax.Array, kl: float | jax.Array) -> jax.Array:
    """Logits of a reference with KL(pi(.|x) || ref(.|x)) = kl in every context, pi exp(-s z) with z along `direction`.

    With E_pi z = 0 that KL is log E_pi[exp(-s z)], increasing in s > 0: bisection finds s. The largest entry of z is
    made -1, at some token v; then s <= kl - log pi(v), and no log-ratio is large.
    """
    log_pi = jax.nn.log_softmax(logits)

    def centred(z: jax.Array) -> jax.Array:
        return z - jnp.sum(jnp.exp(log_pi) * z, -1, keepdims=True)

    z = centred(direction)
    z = -z / jnp.take_along_axis(z, jnp.argmax(jnp.abs(z), -1, keepdims=True), -1)
    z = centred(z)  # again: the first time entries that are almost equal leave their rounding, now scaled up

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        small = jax.nn.logsumexp(log_pi - middle * z, axis=-1, keepdims=True) < kl
        return jnp.where(small, middle, low), jnp.where(small, high, middle)

    most = kl - jnp.min(log_pi, -1, keepdims=True)
    low, high = jax.lax.fori_loop(0, 64, halve, (jnp.zeros_like(most), most))
    return log_pi - 0.5 * (low + high) * z


def with_trajectory_kl(beta: Any) -> Objective:
    """J - beta KL(P || P_ref): the KL in the reward."""
    return partial(reinforce, reward_kl=beta)


def with_own_token_kl(beta: Any) -> Objective:
    """J with beta times the own-token KL in the loss; like `reinforce(token_kl=beta)`, for a beta that is traced."""

    def objective(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        total, count = reinforce(logp_BxS, traj)
        return total + beta * own_token_kl(logp_BxS, traj)[0], count

    return objective


def _measured(
    instance: Instance, traj: Trajectories, ref_logp_NxBxS: jax.Array, beta_N: jax.Array, objective: Callable
) -> jax.Array:
    """f[N, Q, H_d, A, 2]: the library's gradient on the decider's logits for N references and betas."""

    def one(ref_logp: jax.Array, beta: jax.Array) -> jax.Array:
        charged = traj.replace(ref_logp=ref_logp)
        return component_gradients(instance.policy, instance.params, charged, objective(beta)).decision["decision"]

    return jax.vmap(one)(ref_logp_NxBxS, beta_N)


def _exact(instance: Instance, traj: Trajectories, ref_logp: jax.Array, beta: jax.Array) -> jax.Array:
    """Autodiff of the exact J - beta KL(P || P_ref) in the decider's logits, law and log-ratio both moving."""

    def value(decide: jax.Array) -> jax.Array:
        params: Params = {**instance.params, "decision": decide}
        logp = log_probs(instance.policy, params, traj)
        payoff = traj.reward - beta * jnp.sum(jnp.where(traj.mask, logp - ref_logp, 0.0), -1)
        return instance.process.expected_return(instance.process.tables(logp), payoff)

    return jax.grad(value)(instance.params["decision"])


def boundary(parts: Parts) -> jax.Array:
    """f[Q, H_d, A]: beta* = (V - c - r)/K, visit-weighted, where the push turns; decision at its reference.

    Infinite where r >= V - c: reward alone already pushes to STOP, and so does every beta.
    """
    return jnp.where(parts.reward < 0, -parts.reward / parts.tax, jnp.inf)


def prepare(instance: Instance) -> Setting:
    """Both sides of every claim: closed forms from dense tables, gradients from the library's objectives."""
    process, policy, shape = instance.process, instance.policy, instance.shape
    beta_key, homogeneous_key = jax.random.split(instance.key)
    beta = jax.random.uniform(beta_key, (), minval=0.1, maxval=1.0)
    traj, logp = enumerated(instance)
    tables = process.tables(logp)
    values = process.values(tables, traj.reward)
    V = _next(_to_go(process, values), tables.log_sample)

    ref_logp = log_probs(policy, instance.reference, traj)
    reference = process.tables(ref_logp)
    parts = _parts(instance, tables, reference, V, _next(kl_to_go(process, tables, reference), tables.log_sample))

    at_logp = jnp.where(traj.decision_mask, logp, ref_logp)
    at = reference.replace(log_stop=tables.log_stop, log_resample=tables.log_resample)
    at_parts = _parts(instance, tables, at, V, _next(kl_to_go(process, tables, at), tables.log_sample))
    turn = boundary(at_parts)
    turns = jnp.isfinite(turn)
    some = jnp.any(turns)
    betas = jnp.stack(
        [
            jnp.where(some, (1.0 - STEP) * jnp.min(turn), beta),
            jnp.where(some, (1.0 + STEP) * jnp.max(jnp.where(turns, turn, 0.0)), beta),
        ]
    )

    references, betas_N = [ref_logp, at_logp, at_logp], [beta, betas[0], betas[1]]
    homogeneous, lengthless = None, None
    if shape.saturated:
        even_logp, grown = _homogeneous(instance, traj, tables, reference, homogeneous_key)
        references, betas_N = [*references, even_logp], [*betas_N, beta]
        homogeneous, lengthless = grown(shape.length), grown(1)
    stacked = jnp.stack(references), jnp.stack(betas_N)
    return Setting(
        instance,
        tables,
        reference,
        values,
        beta,
        parts,
        at_parts,
        betas,
        homogeneous,
        lengthless,
        _measured(instance, traj, *stacked, with_trajectory_kl),
        _measured(instance, traj, *stacked, with_own_token_kl),
        _exact(instance, traj, ref_logp, beta),
    )


def _homogeneous(
    instance: Instance, traj: Trajectories, tables: Tables, reference: Tables, key: jax.Array
) -> tuple[jax.Array, Callable[[int], jax.Array]]:
    """(log-probs of a reference with the same KL in every context of a component, the tax it makes by answer length).

    The tax is what the statement says in closed form, f[Q, H_d, A].
    """
    process, policy, params = instance.process, instance.policy, instance.params
    flat, unravel = ravel_pytree(params)
    numbers = Numbers(key, flat.size, 2)
    direction = unravel(numbers.normal(flat.size))
    k_s, k_d = 0.05 + 0.25 * numbers.uniform(2)
    even_reference = {
        "sample": tilted(direction["sample"], params["sample"], k_s),
        "decision": tilted(direction["decision"], params["decision"], k_d),
    }
    even_logp = log_probs(policy, even_reference, traj)
    answers, decisions = (_next(tuple(x), tables.log_sample) for x in _expected_left(process, tables))

    def grown(length: int) -> jax.Array:
        K = tuple(length * k_s * a + k_d * d for a, d in zip(answers, decisions, strict=True))
        return _parts(instance, tables, reference, K, K).tax  # whatever V

    return even_logp, grown


def _stated(parts: Parts, beta: jax.Array) -> jax.Array:
    return parts.reward + beta * (parts.tax - parts.ratio)


def _right_way(setting: Setting, below: jax.Array, above: jax.Array) -> jax.Array:
    """Least push per visit, in units of max(1, beta), in the direction that the statement gives on either side."""
    parts = setting.at_reference
    units = jnp.maximum(1.0, setting.betas)
    turns = parts.reward < 0
    low = jnp.where(turns, -below, below) / (parts.visits * units[0])
    return jnp.minimum(jnp.min(low), jnp.min(above / (parts.visits * units[1])))


def check(setting: Setting) -> dict[str, Measured]:
    """Gradient, closed form with and without the tax, its growth, and the sign on both sides of every boundary."""
    parts, beta = setting.parts, setting.beta
    measured, own = setting.trajectory[GENERAL], setting.own[GENERAL]
    tax = (measured - own)[..., STOP]
    push = _right_way(setting, setting.trajectory[BELOW][..., STOP], setting.trajectory[ABOVE][..., STOP])
    measures = {
        EXACT: Measured(gap(measured, setting.exact)),
        FORMULA: Measured(gap(measured[..., STOP], _stated(parts, beta))),
        NEGATIVE: Measured(gap(measured[..., 1 - STOP], -measured[..., STOP])),
        OWN: Measured(gap(own[..., STOP], parts.reward - beta * parts.ratio)),
        TAX: Measured(gap(tax, beta * parts.tax), jnp.min(tax / parts.visits)),
        FLIP: Measured(shortfall(push), push),
    }
    if setting.homogeneous is not None:
        growth = (setting.trajectory[EVEN] - setting.own[EVEN])[..., STOP] / beta
        measures[GROWTH] = Measured(gap(growth, setting.homogeneous))
    return measures


def control(setting: Setting) -> dict[str, jax.Array]:
    """Each term dropped or one round off, and the tax claimed for a penalty that has none."""
    instance, parts, beta = setting.instance, setting.parts, setting.beta
    process, shape, tables, reference = instance.process, instance.shape, setting.tables, setting.reference
    if not shape.saturated:  # nothing keeps a network from being almost certain, and then wrong variants are small
        return {}
    measured = setting.trajectory[GENERAL][..., STOP]
    V, K = _to_go(process, setting.values), kl_to_go(process, tables, reference)

    def now(x: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(entry[..., None] for entry in x[:-1])

    late = _parts(instance, tables, reference, now(V), now(K))
    errors = {
        CONTROLS[0].name: gap(measured, parts.reward - beta * parts.ratio),
        CONTROLS[1].name: gap(measured, _stated(parts._replace(tax=late.tax), beta)),
        CONTROLS[2].name: gap(measured, _stated(parts._replace(reward=late.reward), beta)),
        CONTROLS[3].name: gap(measured, parts.reward + beta * parts.tax),
        CONTROLS[4].name: gap(setting.own[GENERAL][..., STOP], _stated(parts, beta)),
    }
    # Binary and c = 0: 0 < V < 1, so reward alone resamples every wrong answer and there is something to turn.
    if not shape.graded and not shape.cost:
        push = _right_way(setting, setting.own[BELOW][..., STOP], setting.own[ABOVE][..., STOP])
        errors[CONTROLS[5].name] = shortfall(push)
    if shape.length >= 2:
        growth = (setting.trajectory[EVEN] - setting.own[EVEN])[..., STOP] / beta
        errors[CONTROLS[6].name] = gap(growth, setting.lengthless)
    return errors


THEOREM = Theorem(
    id="T7",
    title="KL taxes reflection",
    statement="trajectory KL: STOP gradient rho pi_stop pi_res [r - V + c + beta K - beta (log-ratios)], K grows as L",
    provenance="[N]",
    assumptions=(
        "saturated decider, beta KL(P || P_ref) in the reward; V and K of the next round, K = KL still to be paid",
        "without history a logit serves several rounds: sums over visits, boundary at visit-weighted V - c - r and K",
        "boundary: decision at its reference and r < V - c; else the push is to STOP for every beta",
        "growth as L: KL k_s in every sampling context, k_d in every decision context",
    ),
    shapes=(
        Shape(rounds=2, length=2, vocabulary=3),
        Shape(rounds=3, length=1, vocabulary=4, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=5, network=True),
        Shape(rounds=2, length=3, vocabulary=2, history="none", graded=True),
        Shape(rounds=2, length=4, vocabulary=2, cost=True, shared=4),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "E[grad log P] = 0, so the gradient is that of REINFORCE with payoff R - beta Lam. On the STOP logit it is rho "
        "pi_stop pi_res times the difference of what follows STOP and RESAMPLE: r - beta log-ratio against V - c - "
        "beta (log-ratio + K). K is a KL, so >= 0, and adds up over the factors to go. Own-token KL has no K."
    ),
    requires=(RESAMPLES, MIXED_IF_BINARY),
    draw=draw_with_free_decider,
    prepare=prepare,
    check=check,
    control=control,
)

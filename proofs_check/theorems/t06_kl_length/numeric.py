"""T6: own-token KL adds up over tokens; trajectory KL spends the variance of the log-ratio, as reward does."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import coefficients, fisher
from dsjax.objectives import own_token_kl, reward_with_kl, trajectory_kl
from dsjax.policies import Params, log_probs
from dsjax.process import Tables
from dsjax.trajectories import Trajectories
from proofs_check.closed_forms import context_counts, martingale_energies, standardised
from proofs_check.coefficients import energies_of, gradients_of
from proofs_check.instances import Instance, Numbers, Shape, enumerated
from proofs_check.numerics import ENERGY, SUM, gap, shortfall
from proofs_check.requirements import RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem
from proofs_check.theorems.t03_conservation.numeric import sees_rounds, variance

CLAIMS = (
    Claim("KL(P || P_ref) = sum_t E[KL_s,t] + sum_t E[KL_d,t], over tokens", SUM),
    Claim("trajectory KL: gradient of the exact KL(P || P_ref)", SUM),
    Claim("own-token KL: E_s = sum_x n(x) Var(log pi/pi_ref | x)", ENERGY),
    Claim("own-token KL: E_d = sum_x n(x) Var(log pi/pi_ref | x)", ENERGY),
    Claim("own-token KL, homogeneous: E_s = L E[tau] v_s", ENERGY),
    Claim("own-token KL, homogeneous: E_d = N_d v_d, no L", ENERGY),
    Claim("trajectory KL: E_s = sum E[(A^s)^2] of the payoff Lam", ENERGY),
    Claim("trajectory KL: E_d = sum E[(A^d)^2] of the payoff Lam", ENERGY),
    Claim("trajectory KL: E_s + E_d = Var(Lam) - Var_q[E(Lam | q)]", ENERGY),
    Claim("trajectory KL: E_s + E_d <= Var(Lam)", ENERGY),
    Claim("one softmax for several rounds: energy of the round-averaged advantage of Lam", ENERGY),
    # In units of max(1, Var(Lam)); the argument is that of T3 for a network.
    Claim("transformer: E_s + E_d <= Var(Lam)", 1e-8),
)
(CHAIN, EXACT, OWN_S, OWN_D, HOMO_S, HOMO_D, LAM_S, LAM_D, TOTAL, BUDGET, AVERAGED, NETWORK) = (c.name for c in CLAIMS)
TRAJECTORY, OWN, EVEN, K1 = "trajectory KL", "own-token KL", "own-token KL, homogeneous", "own-token KL by k1"
CONTROLS = (
    Control("k1 in the loss for k2", OWN_S),
    Control("own-token KL said to be the gradient of KL(P || P_ref)", EXACT),
    Control("Var_q[E(Lam | q)] left out", TOTAL),
    Control("a KL charged for the forced stop", CHAIN),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories  # exact law of the policy, with the reference's log-probs
    log_ratio: jax.Array  # f[B]: Lam
    tables: Tables
    counts: Params  # n(x, token)
    ascent: Params  # minus the exact gradient of KL(P || P_ref)
    energies: dict[str, tuple[jax.Array, jax.Array]]  # (E_s, E_d) by objective: TRAJECTORY, OWN, and of tables all
    gradients: dict[str, Params]  # G by objective
    homogeneous: tuple[jax.Array, jax.Array] | None  # (v_s, v_d), of tables


def prepare(instance: Instance) -> Setting:
    """The law, the log-ratio of every trajectory, Fisher matrices and visits."""
    process, policy, params = instance.process, instance.policy, instance.params
    traj, logp = enumerated(instance)
    ref_logp = log_probs(policy, instance.reference, traj)
    traj = traj.replace(ref_logp=ref_logp)
    log_ratio = jnp.sum(jnp.where(traj.mask, logp - ref_logp, 0.0), -1)
    counts = context_counts(process, traj.weight)
    c = {TRAJECTORY: coefficients(trajectory_kl, logp, traj), OWN: coefficients(own_token_kl, logp, traj)}
    sizes = None
    if instance.shape.saturated:
        even, *sizes = _homogeneous(instance, traj)
        c[EVEN] = coefficients(own_token_kl, logp, even)
        c[K1] = coefficients(partial(own_token_kl, estimator="k1"), logp, traj)
    gradients = gradients_of(policy, params, traj, jnp.stack(list(c.values())))
    pairs = energies_of(gradients, fisher(policy, params, traj))
    return Setting(
        instance,
        traj,
        log_ratio,
        process.tables(logp),
        counts,
        jax.tree.map(jnp.negative, _exact_gradient(instance, traj)),
        dict(zip(c, pairs, strict=True)),
        {name: jax.tree.map(lambda x, i=i: x[i], gradients.total) for i, name in enumerate(c)},
        None if sizes is None else (sizes[0], sizes[1]),
    )


def _expected_kl(instance: Instance, traj: Trajectories) -> jax.Array:
    """E[sum over the drawn tokens of KL(pi(.|x) || pi_ref(.|x))], whatever the policy."""
    prompt, answers = traj.prompt, traj.answers(instance.policy.length)
    new, old = (instance.policy.log_dists(p, prompt, answers) for p in (instance.params, instance.reference))
    kl_s, kl_d = (jnp.sum(jnp.exp(a) * (a - b), -1) for a, b in zip(new, old, strict=True))
    kl_BxS = jnp.concatenate([kl_s, kl_d[..., None]], axis=-1).reshape(traj.tokens.shape)
    return jnp.sum(traj.weight * jnp.sum(jnp.where(traj.mask, kl_BxS, 0.0), -1))


def _local(counts: jax.Array, logits: jax.Array, reference: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum_x n(x) KL(pi_x || ref_x), sum_x n(x) Var_pi(log pi/ref | x))."""
    log_pi, log_ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
    n, pi, x = jnp.sum(counts, -1), jnp.exp(log_pi), log_pi - log_ref
    kl = jnp.sum(pi * x, -1)
    return jnp.sum(n * kl), jnp.sum(n * jnp.sum(pi * (x - kl[..., None]) ** 2, -1))


def _homogeneous(instance: Instance, traj: Trajectories) -> tuple[Trajectories, jax.Array, jax.Array]:
    """A reference with the same Var(log pi/pi_ref | x) in every context of a component, and (v_s, v_d)."""
    flat, unravel = ravel_pytree(instance.params)
    numbers = Numbers(instance.key, flat.size, 2)
    direction = unravel(numbers.normal(flat.size))
    size_s, size_d = 0.2 + 0.8 * numbers.uniform(2)

    def tilted(name: str, size: jax.Array) -> jax.Array:
        log_pi = jax.nn.log_softmax(instance.params[name])
        return log_pi - size * standardised(direction[name], log_pi)

    reference = {"sample": tilted("sample", size_s), "decision": tilted("decision", size_d)}
    return traj.replace(ref_logp=log_probs(instance.policy, reference, traj)), size_s**2, size_d**2


def _exact_gradient(instance: Instance, traj: Trajectories) -> Params:
    """Autodiff of KL(P || P_ref) through the dense recursion, law and log-ratio both moving."""
    process = instance.process
    ref_logp = log_probs(instance.policy, instance.reference, traj)

    def kl(params: Params) -> jax.Array:
        logp = log_probs(instance.policy, params, traj)
        payoff = jnp.sum(jnp.where(traj.mask, logp - ref_logp, 0.0), -1)
        return process.expected_return(process.tables(logp), payoff)

    return jax.grad(kl)(instance.params)


def check(setting: Setting) -> dict[str, Measured]:
    """Chain rule, exact gradient, and the energies of both places where a KL can stand."""
    instance, traj, lam, tables, counts, ascent, measured_energies, gradients, homogeneous = setting
    E_s, E_d = measured_energies[TRAJECTORY]
    process, params, shape = instance.process, instance.params, instance.shape
    values, visitation = process.values(tables, lam), process.visitation(tables)
    var, between = variance(traj.weight, lam), variance(process.prompt_law, values.V[0][:, 0])
    measured = {EXACT: Measured(gap(gradients[TRAJECTORY], ascent))}
    charged = jnp.sum(traj.weight * -reward_with_kl(traj.replace(reward=jnp.zeros_like(lam)), 1.0))
    sees = sees_rounds(shape)
    tight = all(sees) and shape.saturated
    slack = var - E_s - E_d
    if homogeneous is None:
        measured[CHAIN] = Measured(gap(charged, _expected_kl(instance, traj)))
        unit = jnp.maximum(1.0, var)
        return measured | {NETWORK if shape.network else BUDGET: Measured(shortfall(slack / unit), slack / unit)}

    # With one prompt and a saturated policy the budget is spent: the slack is 0.
    measured[BUDGET] = Measured(shortfall(slack), None if tight and shape.prompts == 1 else slack)
    kl_s, var_s = _local(counts["sample"], params["sample"], instance.reference["sample"])
    kl_d, var_d = _local(counts["decision"], params["decision"], instance.reference["decision"])
    measured[CHAIN] = Measured(gap(charged, kl_s + kl_d))
    own_s, own_d = measured_energies[OWN]
    measured[OWN_S], measured[OWN_D] = Measured(gap(own_s, var_s)), Measured(gap(own_d, var_d))

    (even_s, even_d), (v_s, v_d) = measured_energies[EVEN], homogeneous
    mean_rounds = sum(jnp.sum(rho) for rho in visitation.answer)
    mean_decisions = sum(jnp.sum(rho) for rho in visitation.answer[:-1])
    measured[HOMO_S] = Measured(gap(even_s, shape.length * mean_rounds * v_s))
    measured[HOMO_D] = Measured(gap(even_d, mean_decisions * v_d))

    S, D = martingale_energies(process, tables, values, visitation)
    if sees[0]:
        measured[LAM_S] = Measured(gap(E_s, S))
    if sees[1]:
        measured[LAM_D] = Measured(gap(E_d, D))
    if tight:
        measured[TOTAL] = Measured(gap(E_s + E_d, var - between))
    if shape.history == "none":
        averaged = martingale_energies(process, tables, values, visitation, merged=True)
        measured[AVERAGED] = Measured(gap((E_s, E_d), averaged))
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """An estimator with no expected gradient, a penalty without its future, a missing term, a token too many."""
    instance, traj, lam, tables, counts, ascent, measured_energies, gradients, _ = setting
    params, shape = instance.params, instance.shape
    E_s, E_d = measured_energies[TRAJECTORY]
    if shape.network:  # nothing keeps a network from being almost certain, and then wrong variants are small
        return {}
    errors = {CONTROLS[1].name: gap(gradients[OWN], ascent)}
    if not shape.saturated:
        return errors
    kl_s, var_s = _local(counts["sample"], params["sample"], instance.reference["sample"])
    kl_d, _ = _local(counts["decision"], params["decision"], instance.reference["decision"])
    errors[CONTROLS[0].name] = gap(measured_energies[K1][0], var_s)
    # With two prompts E(Lam | q) can agree by chance to the square root of the tolerance; with three it does not.
    if all(sees_rounds(shape)) and shape.prompts >= 3:
        errors[CONTROLS[2].name] = gap(E_s + E_d, variance(traj.weight, lam))
    if shape.history == "none":
        # Without history the decider has logits for the answers of round T too, though it never decides there.
        visits = instance.process.visitation(tables).answer[-1].sum(1)
        log_pi = jax.nn.log_softmax(params["decision"][:, 0])
        log_ref = jax.nn.log_softmax(instance.reference["decision"][:, 0])
        forced = jnp.sum(visits * jnp.sum(jnp.exp(log_pi) * (log_pi - log_ref), -1))
        errors[CONTROLS[3].name] = gap(jnp.sum(traj.weight * lam), kl_s + kl_d + forced)
    return errors


THEOREM = Theorem(
    id="T6",
    title="Length weighting of KL",
    statement="own-token KL: E_s grows as L, E_d does not; trajectory KL: E_s + E_d = Var(Lam) - Var_q[E(Lam|q)]",
    provenance="[P/R]",
    assumptions=(
        "on-policy, Lam = log P/P_ref, own-token KL by k2 (reverse KL per prefix)",
        "saturated policy; trajectory KL: one softmax per context and round, else <=",
        "growth as L: Var(log pi/pi_ref | x) = v_s in every sampling context, v_d in every decision context",
    ),
    shapes=(
        # The verifier is drawn, but a KL does not depend on it.
        Shape(rounds=3, length=1, vocabulary=2, prompts=3),
        Shape(rounds=3, length=2, vocabulary=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=3, vocabulary=2, history="none"),
        Shape(rounds=4, length=1, vocabulary=4, shared=5),
        Shape(rounds=2, length=1, vocabulary=3, network=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, history="none", graded=True, shared=5),
        Shape(rounds=2, length=4, vocabulary=2, cost=True, shared=5),
        Shape(rounds=2, length=5, vocabulary=2, history="none", shared=5),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=5),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "log P/P_ref is the sum of log-ratios of factors: the chain rule. A local KL has gradient E_pi[log(pi/pi_ref)"
        " score], which gives Var_pi(log pi/pi_ref) per context. grad KL(P||P_ref) = E[Lam grad log P] is REINFORCE "
        "with return Lam, so T3 applies."
    ),
    requires=(RESAMPLES,),
    prepare=prepare,
    check=check,
    control=control,
)

"""T5: token-mean cross-entropy weighs the components by their number of tokens."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import coefficients, component_gradients, energies, energy, fisher, loss_of
from dsjax.numerics import divide
from dsjax.objectives import sft
from dsjax.policies import Params, log_probs
from dsjax.trajectories import Trajectories
from proofs_check.closed_forms import context_counts, standardised
from proofs_check.coefficients import energies_of, gradients_of
from proofs_check.instances import Instance, Shape, normal
from proofs_check.numerics import ENERGY, SUM, gap
from proofs_check.requirements import RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem

# Energies under data contexts: contexts that are rare under nu and tokens that are rare under pi make chi2 as large as
# 1/pi_min ~ 10^2; `gap` is relative to it.
CLAIMS = (
    Claim("loss = sum_c (N_c/N) x mean token NLL of c", SUM),
    Claim("gradient at x = n(x) (nu(.|x) - pi(.|x)) / N", SUM),
    Claim("E_s = sum_x n(x) chi2(nu || pi) / N^2", ENERGY),
    Claim("E_d = sum_x n(x) chi2(nu || pi) / N^2", ENERGY),
    Claim("homogeneous: decision share = delta k_d / (L k_s + delta k_d)", ENERGY),
    Claim("homogeneous, w = sqrt(L): the L = 1 share", ENERGY),
    Claim("w = L: one loss weight per factor", SUM),
    Claim("homogeneous, w = L: share = delta L k_d / (k_s + delta L k_d)", ENERGY),
)
(LOSS, GRADIENT, CHI_S, CHI_D, SHARE, ROOT, PARITY, OVERSHOOT) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("w = L said to restore the energy share", ROOT),
    Control("Fisher matrix under the policy's contexts", CHI_S),
    Control("forced stop counted as a decision (delta = 1)", SHARE),
    Control("normaliser N left out of the energy", CHI_D),
)


class Homogeneous(NamedTuple):
    """Demonstrations with the same chi2 in every context of a component, and what is measured on them."""

    demos: Trajectories
    k_s: jax.Array
    k_d: jax.Array
    delta: jax.Array  # decisions per answer, N_d / E[tau] < 1
    shares: tuple[jax.Array, ...]  # measured decision share at decision weight 1, sqrt(L), L
    energy_d: jax.Array  # measured E_d at decision weight 1


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    demos: Trajectories  # an arbitrary law nu on trajectories
    homogeneous: Homogeneous | None  # with tables only: no other policy can be put at a given mismatch


def _tilt(direction: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits of nu(.|x) = pi(.|x) (1 + sqrt(k) z_x), so that chi2(nu || pi) = k in every context, and k.

    z has mean 0 and variance 1 under pi; k is half of what keeps every probability positive.
    """
    log_pi = jax.nn.log_softmax(logits)
    z = standardised(direction, log_pi)
    root = 0.5 / jnp.max(jnp.abs(z))
    return log_pi + jnp.log1p(root * z), root**2


def prepare(instance: Instance) -> Setting:
    """Two demonstrators: an arbitrary law of trajectories, and one with homogeneous mismatch."""
    law_key, homogeneous_key = jax.random.split(instance.key)
    support = instance.process.support()
    nu = jax.nn.softmax(normal(law_key, support.weight.size))
    homogeneous = _homogeneous(instance, homogeneous_key) if instance.shape.saturated else None
    return Setting(instance, support.replace(weight=nu), homogeneous)


def _homogeneous(instance: Instance, key: jax.Array) -> Homogeneous:
    policy, process, params = instance.policy, instance.process, instance.params
    flat, unravel = ravel_pytree(params)
    direction = unravel(normal(key, flat.size))
    sample, k_s = _tilt(direction["sample"], params["sample"])
    decide, k_d = _tilt(direction["decision"], params["decision"])
    demonstrator = {"sample": sample, "decision": decide}
    homogeneous = process.enumerate_trajectories(policy, demonstrator)
    counts = context_counts(process, homogeneous.weight)
    delta = jnp.sum(counts["decision"]) * policy.length / jnp.sum(counts["sample"])
    assert homogeneous.old_logp is not None
    weights = (1.0, policy.length**0.5, float(policy.length))
    c = [coefficients(partial(sft, decision_weight=w), homogeneous.old_logp, homogeneous) for w in weights]
    gradients = gradients_of(policy, params, homogeneous, jnp.stack(c))
    pairs = energies_of(gradients, fisher(policy, params, homogeneous))
    shares = tuple(E_d / (E_s + E_d) for E_s, E_d in pairs)
    return Homogeneous(homogeneous, k_s, k_d, delta, shares, pairs[0][1])


def _chi2(counts: jax.Array, logits: jax.Array) -> jax.Array:
    """sum_x n(x) chi2(nu(.|x) || pi(.|x)), from counts n(x, token)."""
    n = jnp.sum(counts, -1, keepdims=True)
    pi = jax.nn.softmax(logits)
    excess = counts - n * pi
    return jnp.sum(divide(excess**2 / pi, n))


def _stated_gradient(counts: Params, params: Params, tokens: jax.Array) -> Params:
    return jax.tree.map(lambda n, x: (n - jnp.sum(n, -1, keepdims=True) * jax.nn.softmax(x)) / tokens, counts, params)


def check(setting: Setting) -> dict[str, Measured]:
    """The arbitrary law gives loss, weights, gradient and energies; the homogeneous one the shares."""
    instance, demos, homogeneous = setting
    policy, params, L = instance.policy, instance.params, instance.shape.length
    counts = context_counts(instance.process, demos.weight)
    N_s, N_d = jnp.sum(counts["sample"]), jnp.sum(counts["decision"])
    N = N_s + N_d
    logp = log_probs(policy, params, demos)

    def nll(mask: jax.Array, count: jax.Array) -> jax.Array:
        total = -jnp.sum(demos.weight * jnp.sum(jnp.where(mask, logp, 0.0), -1))
        return total / count

    stated_loss = N_s / N * nll(demos.sample_mask, N_s) + N_d / N * nll(demos.decision_mask, N_d)
    c = coefficients(partial(sft, decision_weight=float(L)), logp, demos)
    per_answer = jnp.sum(jnp.where(demos.sample_mask, c, 0.0)) * L / N_s
    per_decision = jnp.sum(jnp.where(demos.decision_mask, c, 0.0)) / N_d
    errors = {LOSS: gap(loss_of(sft, logp, demos), stated_loss), PARITY: gap(per_decision, per_answer)}
    if homogeneous is not None:
        _, k_s, k_d, delta, (plain, root, full), _ = homogeneous
        gradients = component_gradients(policy, params, demos, sft)
        E_s, E_d = energies(policy, params, demos, gradients)
        errors |= {
            GRADIENT: gap(gradients.total, _stated_gradient(counts, params, N)),
            CHI_S: gap(N**2 * E_s, _chi2(counts["sample"], params["sample"])),
            CHI_D: gap(N**2 * E_d, _chi2(counts["decision"], params["decision"])),
            SHARE: gap(plain, delta * k_d / (L * k_s + delta * k_d)),
            ROOT: gap(root, delta * k_d / (k_s + delta * k_d)),
            OVERSHOOT: gap(full, delta * L * k_d / (k_s + delta * L * k_d)),
        }
    return {name: Measured(error) for name, error in errors.items()}


def control(setting: Setting) -> dict[str, jax.Array]:
    """A weight, a metric, a count and a normaliser that are each off by one idea."""
    instance, demos, found = setting
    if found is None:
        return {}
    _, k_s, k_d, delta, (plain, _, full), E_d = found
    process, policy, params, L = instance.process, instance.policy, instance.params, instance.shape.length
    counts = context_counts(process, demos.weight)
    N = jnp.sum(counts["sample"]) + jnp.sum(counts["decision"])
    gradients = component_gradients(policy, params, demos, sft)
    own = process.enumerate_trajectories(policy, params)
    E_own = energy(gradients.sample, fisher(policy, params, own)[0])
    homogeneous = context_counts(process, found.demos.weight)
    errors = {
        CONTROLS[1].name: gap(N**2 * E_own, _chi2(counts["sample"], params["sample"])),
        CONTROLS[2].name: gap(plain, k_d / (L * k_s + k_d)),
        CONTROLS[3].name: gap(E_d, _chi2(homogeneous["decision"], params["decision"])),
    }
    if L >= 2:
        errors[CONTROLS[0].name] = gap(full, delta * k_d / (k_s + delta * k_d))
    return errors


THEOREM = Theorem(
    id="T5",
    title="Length weighting of SFT",
    statement="SFT energy adds up over tokens: share delta k_d/(L k_s + delta k_d); weight sqrt(L) restores it",
    provenance="[P/R]",
    assumptions=(
        "demonstrations from any law nu; loss and loss weights: any policy",
        "gradient and energies: saturated policy (with or without history)",
        "Fisher metric under the demonstrations' contexts",
        "homogeneous: chi2(nu || pi) = k_s in every sampling context, k_d in every decision context",
        "delta = decisions per answer (< 1: the forced stop of round T has no decision token)",
    ),
    shapes=(
        # The verifier is drawn, but no demonstration depends on it.
        Shape(rounds=2, length=3, vocabulary=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=3, graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3, history="none"),
        Shape(rounds=4, length=1, vocabulary=4, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, graded=True, network=True),
        Shape(rounds=2, length=4, vocabulary=2, shared=4),
        Shape(rounds=2, length=5, vocabulary=2, history="none", shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "The coefficient is 1/N per token, so the gradient at a context is (n(x)/N)(nu - pi), and (nu - pi)^T (diag "
        "pi - pi pi^T)^+ (nu - pi) = chi2. With equal chi2 in all contexts of a component the energies are "
        "proportional to token counts. A weight w multiplies the decision energy by w^2."
    ),
    requires=(RESAMPLES,),
    prepare=prepare,
    check=check,
    control=control,
)

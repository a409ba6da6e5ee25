"""T5: token-mean cross-entropy weighs the components by their number of tokens."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import coefficients, component_gradients, energies, energy, fisher, loss_of
from dsjax.numerics import divide
from dsjax.objectives import sft
from dsjax.policies import log_probs
from dsjax.trajectories import Trajectories
from proofs_check.closed_forms import context_counts, standardised
from proofs_check.coefficients import energies_of, gradients_of
from proofs_check.extremes import WITHOUT_REFERENCE, WITHOUT_REWARD, Spared
from proofs_check.instances import Instance, Shape, normal
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem


def _tilt(direction: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits of nu(.|x) = pi(.|x) (1 + sqrt(k) z_x), so that chi2(nu || pi) = k in every context, and k.

    z has mean 0 and variance 1 under pi; k is half of what keeps every probability positive.
    """
    log_pi = jax.nn.log_softmax(logits)
    z = standardised(direction, log_pi)
    root = 0.5 / jnp.max(jnp.abs(z))
    return log_pi + jnp.log1p(root * z), root**2


class Demonstrations:
    """A law nu of trajectories, and how often it draws each token in each context."""

    def __init__(self, instance: Instance, traj: Trajectories):
        self.instance, self.traj = instance, traj
        counts = context_counts(instance.process, traj.weight)
        self.counts, self.total = counts, {name: jnp.sum(n) for name, n in counts.items()}
        self.N = self.total["sample"] + self.total["decision"]

    def chi2(self, component: str) -> jax.Array:
        """Chi-square distance of nu from pi, summed over contexts with weights n(x)."""
        counts, pi = self.counts[component], jax.nn.softmax(self.instance.params[component])
        n = jnp.sum(counts, -1, keepdims=True)
        return jnp.sum(divide((counts - n * pi) ** 2 / pi, n))


class Homogeneous(Demonstrations):
    """Demonstrations with the same chi2 in every context of a component, and what is measured on them."""

    def __init__(self, instance: Instance, key: jax.Array):
        policy, params, L = instance.policy, instance.params, instance.shape.length
        flat, unravel = ravel_pytree(params)
        direction = unravel(normal(key, flat.size))
        sample, self.k_s = _tilt(direction["sample"], params["sample"])
        decide, self.k_d = _tilt(direction["decision"], params["decision"])
        traj = instance.process.enumerate_trajectories(policy, {"sample": sample, "decision": decide}, static=True)
        super().__init__(instance, traj)
        self.delta = self.total["decision"] * L / self.total["sample"]  # decisions per answer, N_d / E[tau] < 1
        assert traj.old_logp is not None
        c = [coefficients(partial(sft, decision_weight=w), traj.old_logp, traj) for w in (1.0, L**0.5, float(L))]
        pairs = energies_of(gradients_of(policy, params, traj, jnp.stack(c)), fisher(policy, params, traj))
        # Decision share at decision weight 1, sqrt(L), L; E_d at 1.
        self.plain, self.root, self.full = (E_d / (E_s + E_d) for E_s, E_d in pairs)
        self.E_d = pairs[0][1]

    def stated(self, s: float, d: float | jax.Array) -> jax.Array:
        """The share if the energy of pi_sample is s k_s and that of pi_d is d k_d, per answer."""
        return d * self.k_d / (s * self.k_s + d * self.k_d)


class Setting:
    """An arbitrary law of trajectories, the loss on it, and (tables) a demonstrator with homogeneous mismatch.

    No other policy can be put at a given mismatch.
    """

    def __init__(self, instance: Instance):
        self.instance, self.L = instance, instance.shape.length
        self.policy, self.params = instance.policy, instance.params
        law_key, homogeneous_key = jax.random.split(instance.key)
        support = instance.process.support(static=True)
        nu = jax.nn.softmax(normal(law_key, support.weight.size))
        self.demos = Demonstrations(instance, support.replace(weight=nu))
        self.logp = log_probs(self.policy, self.params, self.demos.traj)
        if instance.shape.saturated:
            self.even = Homogeneous(instance, homogeneous_key)
            self.gradients = component_gradients(self.policy, self.params, self.demos.traj, sft)
            self.E_s, self.E_d = energies(self.policy, self.params, self.demos.traj, self.gradients)


THEOREM = Theorem(
    STATEMENTS["T5"],
    shapes=(
        # The verifier is drawn, but no demonstration depends on it.
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=3, graded=True, cost=True),
        Shape(rounds=2, length=2, vocabulary=3, history="none"),
        Shape(rounds=4, length=1, vocabulary=4, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, graded=True, network=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=2, length=5, vocabulary=2, history="none", shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        *WITHOUT_REWARD,
        WITHOUT_REFERENCE,
        Spared(
            "sharp",
            "the same chi2 in every context is below the least probability: that of rounding",
            (
                "homogeneous: decision share = delta k_d / (L k_s + delta k_d)",
                "homogeneous, w = sqrt(L): the L = 1 share",
                "homogeneous, w = L: share = delta L k_d / (k_s + delta L k_d)",
            ),
        ),
    ),
    requires=(RESAMPLES,),
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere, saturated = THEOREM.on(), THEOREM.on(lambda shape: shape.saturated)


@everywhere.equation("loss = sum_c (N_c/N) x mean token NLL of c")
def _loss(s: Setting) -> jax.Array:
    demos, traj = s.demos, s.demos.traj

    def nll(mask: jax.Array, count: jax.Array) -> jax.Array:
        return -jnp.sum(traj.weight * jnp.sum(jnp.where(mask, s.logp, 0.0), -1)) / count

    N_s, N_d = demos.total["sample"], demos.total["decision"]
    stated = N_s / demos.N * nll(traj.sample_mask, N_s) + N_d / demos.N * nll(traj.decision_mask, N_d)
    return gap(loss_of(sft, s.logp, traj), stated)


@saturated.equation("gradient at x = n(x) (nu(.|x) - pi(.|x)) / N")
def _gradient(s: Setting) -> jax.Array:
    def stated(n: jax.Array, logits: jax.Array) -> jax.Array:
        return (n - jnp.sum(n, -1, keepdims=True) * jax.nn.softmax(logits)) / s.demos.N

    return gap(s.gradients.total, jax.tree.map(stated, s.demos.counts, s.params))


# Energies under data contexts: contexts that are rare under nu and tokens that are rare under pi make chi2 as large as
# 1/pi_min ~ 10^2; `gap` is relative to it.
_chi_s = saturated.equation(
    "E_s = sum_x n(x) chi2(nu || pi) / N^2", lambda s: gap(s.demos.N**2 * s.E_s, s.demos.chi2("sample")), ENERGY
)
_chi_d = saturated.equation(
    "E_d = sum_x n(x) chi2(nu || pi) / N^2", lambda s: gap(s.demos.N**2 * s.E_d, s.demos.chi2("decision")), ENERGY
)
_share = saturated.equation(
    "homogeneous: decision share = delta k_d / (L k_s + delta k_d)",
    lambda s: gap(s.even.plain, s.even.stated(s.L, s.even.delta)),
    ENERGY,
)
_root = saturated.equation(
    "homogeneous, w = sqrt(L): the L = 1 share", lambda s: gap(s.even.root, s.even.stated(1, s.even.delta)), ENERGY
)


@everywhere.equation("w = L: one loss weight per factor")
def _parity(s: Setting) -> jax.Array:
    traj, total = s.demos.traj, s.demos.total
    c = coefficients(partial(sft, decision_weight=float(s.L)), s.logp, traj)
    per_answer = jnp.sum(jnp.where(traj.sample_mask, c, 0.0)) * s.L / total["sample"]
    return gap(jnp.sum(jnp.where(traj.decision_mask, c, 0.0)) / total["decision"], per_answer)


saturated.equation(
    "homogeneous, w = L: share = delta L k_d / (k_s + delta L k_d)",
    lambda s: gap(s.even.full, s.even.stated(1, s.even.delta * s.L)),
    ENERGY,
)

THEOREM.on(lambda shape: shape.length >= 2).control(
    "w = L said to restore the energy share", _root, lambda s: gap(s.even.full, s.even.stated(1, s.even.delta))
)


@saturated.control("Fisher matrix under the policy's contexts", _chi_s)
def _own_contexts(s: Setting) -> jax.Array:
    own = s.instance.process.enumerate_trajectories(s.policy, s.params, static=True)
    E_own = energy(s.gradients.sample, fisher(s.policy, s.params, own)[0])
    return gap(s.demos.N**2 * E_own, s.demos.chi2("sample"))


saturated.control(
    "forced stop counted as a decision (delta = 1)", _share, lambda s: gap(s.even.plain, s.even.stated(s.L, 1))
)
saturated.control("normaliser N left out of the energy", _chi_d, lambda s: gap(s.even.E_d, s.even.chi2("decision")))

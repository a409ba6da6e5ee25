"""T6: own-token KL adds up over tokens; trajectory KL spends the variance of the log-ratio, as reward does."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import coefficients, fisher
from dsjax.objectives import own_token_kl, reward_with_kl, trajectory_kl
from dsjax.policies import Params, log_probs
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import context_counts, drifted, martingale_energies
from proofs_check.coefficients import energies_of, gradients_of
from proofs_check.extremes import WITHOUT_REWARD, Spared
from proofs_check.instances import Instance, Numbers, Shape
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t03_conservation.numeric import tight_d, tight_s, variance

TRAJECTORY, OWN, EVEN, K1 = "trajectory KL", "own-token KL", "own-token KL, homogeneous", "own-token KL by k1"


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

    sizes = {"sample": size_s, "decision": size_d}
    reference = {name: drifted(direction[name], x, sizes[name]) for name, x in instance.params.items()}
    return traj.replace(ref_logp=log_probs(instance.policy, reference, traj)), size_s**2, size_d**2


class Setting(instances.Setting):
    """The log-ratio of every trajectory as a payoff, and the energies of both places where a KL can stand."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        self.ref_logp = log_probs(self.policy, instance.reference, self.traj)
        traj = self.traj = self.traj.replace(ref_logp=self.ref_logp)
        self.lam = self.log_ratio(self.logp)  # f[B]
        self.values = self.process.values(self.tables, self.lam)
        self.var = variance(traj.weight, self.lam)
        self.between = variance(self.process.prompt_law, self.values.V[0][:, 0])
        c = {TRAJECTORY: coefficients(trajectory_kl, self.logp, traj), OWN: coefficients(own_token_kl, self.logp, traj)}
        if self.shape.saturated:
            even, self.v_s, self.v_d = _homogeneous(instance, traj)
            c[EVEN] = coefficients(own_token_kl, self.logp, even)
            c[K1] = coefficients(partial(own_token_kl, estimator="k1"), self.logp, traj)
            counts, own, reference = context_counts(self.process, traj.weight), self.params, instance.reference
            # sum_x n(x) KL and sum_x n(x) Var(log pi/pi_ref | x) of either component.
            self.kl_s, self.var_s = _local(counts["sample"], own["sample"], reference["sample"])
            self.kl_d, self.var_d = _local(counts["decision"], own["decision"], reference["decision"])
        gradients = gradients_of(self.policy, self.params, traj, jnp.stack(list(c.values())))
        pairs = energies_of(gradients, fisher(self.policy, self.params, traj))
        # By objective: TRAJECTORY, OWN, and of tables all.
        self.energies = dict(zip(c, pairs, strict=True))
        self.gradients = {name: jax.tree.map(lambda x, i=i: x[i], gradients.total) for i, name in enumerate(c)}
        self.E_s, self.E_d = self.energies[TRAJECTORY]
        self.slack = self.var - self.E_s - self.E_d
        # Autodiff of -KL(P || P_ref) through the dense recursion, law and log-ratio both moving.
        self.ascent = jax.tree.map(jnp.negative, jax.grad(self._kl)(self.params))

    def log_ratio(self, logp: jax.Array) -> jax.Array:
        """Lam at other parameters."""
        return jnp.sum(jnp.where(self.traj.mask, logp - self.ref_logp, 0.0), -1)

    def _kl(self, params: Params) -> jax.Array:
        logp = log_probs(self.policy, params, self.traj)
        return self.process.expected_return(self.process.tables(logp), self.log_ratio(logp))

    def sum_squares(self, *, merged: bool = False) -> tuple[jax.Array, jax.Array]:
        """(sum E[(A^s)^2], sum E[(A^d)^2]) of the payoff Lam."""
        return martingale_energies(self.process, self.tables, self.values, self.visitation, merged=merged)


def _tight(shape: Shape) -> bool:
    """Whether both components have a free softmax for each context and round."""
    return tight_s(shape) and tight_d(shape)


THEOREM = Theorem(
    STATEMENTS["T6"],
    shapes=(
        # The verifier is drawn, but a KL does not depend on it.
        Shape(rounds=3, length=1, vocabulary=2, prompts=3),
        Shape(rounds=3, length=2, vocabulary=2, history="none", graded=True, cost=True),
        Shape(rounds=2, length=3, vocabulary=2, history="none"),
        Shape(rounds=4, length=1, vocabulary=4, shared=5),
        Shape(rounds=2, length=1, vocabulary=3, network=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, history="none", graded=True, shared=5),
        Shape(rounds=2, length=4, vocabulary=2, history="none", cost=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", shared=5),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=5),
    ),
    spared=(
        *WITHOUT_REWARD,
        Spared(
            "sharp",
            "the same variance in every context asks for log-ratios of 1/sqrt(least probability), with their rounding",
            (
                "own-token KL, homogeneous: E_s = L E[tau] v_s",
                "own-token KL, homogeneous: E_d = N_d v_d, no L",
            ),
        ),
    ),
    requires=(RESAMPLES,),
    prepare=Setting,
    telling=lambda shape: not shape.network,
)
everywhere, saturated = THEOREM.on(), THEOREM.on(lambda shape: shape.saturated)
free_s, free_d = THEOREM.on(tight_s), THEOREM.on(tight_d)
blind = THEOREM.on(lambda shape: shape.saturated and shape.history == "none")


@everywhere.equation("KL(P || P_ref) = sum_t E[KL_s,t] + sum_t E[KL_d,t], over tokens")
def _chain(s: Setting) -> jax.Array:
    charged = jnp.sum(s.traj.weight * -reward_with_kl(s.traj.replace(reward=jnp.zeros_like(s.lam)), 1.0))
    stated = s.kl_s + s.kl_d if s.shape.saturated else _expected_kl(s.instance, s.traj)
    return gap(charged, stated)


_exact = everywhere.equation(
    "trajectory KL: gradient of the exact KL(P || P_ref)", lambda s: gap(s.gradients[TRAJECTORY], s.ascent)
)
_own_s = saturated.equation(
    "own-token KL: E_s = sum_x n(x) Var(log pi/pi_ref | x)", lambda s: gap(s.energies[OWN][0], s.var_s), ENERGY
)
saturated.equation(
    "own-token KL: E_d = sum_x n(x) Var(log pi/pi_ref | x)", lambda s: gap(s.energies[OWN][1], s.var_d), ENERGY
)


def _visits(s: Setting, rounds: int) -> jax.Array:
    """Expected number of answers in the first rounds."""
    return sum((jnp.sum(rho) for rho in s.visitation.answer[:rounds]), jnp.zeros(()))


saturated.equation(
    "own-token KL, homogeneous: E_s = L E[tau] v_s",
    lambda s: gap(s.energies[EVEN][0], s.shape.length * _visits(s, s.shape.rounds) * s.v_s),
    ENERGY,
)
saturated.equation(
    "own-token KL, homogeneous: E_d = N_d v_d, no L",
    lambda s: gap(s.energies[EVEN][1], _visits(s, s.shape.rounds - 1) * s.v_d),
    ENERGY,
)
free_s.equation(
    "trajectory KL: E_s = sum E[(A^s)^2] of the payoff Lam", lambda s: gap(s.E_s, s.sum_squares()[0]), ENERGY
)
free_d.equation(
    "trajectory KL: E_d = sum E[(A^d)^2] of the payoff Lam", lambda s: gap(s.E_d, s.sum_squares()[1]), ENERGY
)
_total = THEOREM.on(_tight).equation(
    "trajectory KL: E_s + E_d = Var(Lam) - Var_q[E(Lam | q)]", lambda s: gap(s.E_s + s.E_d, s.var - s.between), ENERGY
)


def _in_units(s: Setting) -> jax.Array:
    """Slack of the budget in units of max(1, Var(Lam))."""
    return s.slack / jnp.maximum(1.0, s.var)


# With one prompt and a saturated policy the budget is spent: the slack is 0.
THEOREM.on(lambda shape: not shape.network).inequality(
    "trajectory KL: E_s + E_d <= Var(Lam)",
    lambda s: s.slack if s.shape.saturated else _in_units(s),
    ENERGY,
    tight=lambda shape: _tight(shape) and shape.prompts == 1,
)
blind.equation(
    "one softmax for several rounds: energy of the round-averaged advantage of Lam",
    lambda s: gap((s.E_s, s.E_d), s.sum_squares(merged=True)),
    ENERGY,
)
# The argument is that of T3 for a network.
THEOREM.on(lambda shape: shape.network).inequality("transformer: E_s + E_d <= Var(Lam)", _in_units, 1e-8)

saturated.control("k1 in the loss for k2", _own_s, lambda s: gap(s.energies[K1][0], s.var_s))
everywhere.control(
    "own-token KL said to be the gradient of KL(P || P_ref)", _exact, lambda s: gap(s.gradients[OWN], s.ascent)
)
# With two prompts E(Lam | q) can agree by chance to the square root of the tolerance; with three it does not.
THEOREM.on(lambda shape: _tight(shape) and shape.prompts >= 3).control(
    "Var_q[E(Lam | q)] left out", _total, lambda s: gap(s.E_s + s.E_d, s.var)
)


@blind.control("a KL charged for the forced stop", _chain)
def _forced(s: Setting) -> jax.Array:
    """Without history the decider has logits for the answers of round T too, though it never decides there."""
    visits = s.visitation.answer[-1].sum(1)
    log_pi, log_ref = (jax.nn.log_softmax(p["decision"][:, 0]) for p in (s.params, s.instance.reference))
    forced = jnp.sum(visits * jnp.sum(jnp.exp(log_pi) * (log_pi - log_ref), -1))
    return gap(jnp.sum(s.traj.weight * s.lam), s.kl_s + s.kl_d + forced)

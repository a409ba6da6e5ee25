"""T7: with the trajectory KL in the reward, RESAMPLE pays for everything that is still to be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import coefficients, component_gradients
from dsjax.objectives import Objective, reinforce
from dsjax.policies import Params, log_probs
from dsjax.process import DecisionSamplingProcess, Tables
from dsjax.trajectories import STOP
from proofs_check import instances
from proofs_check.closed_forms import by_context
from proofs_check.coefficients import gradients_of
from proofs_check.extremes import Spared, without_pushes
from proofs_check.instances import Instance, Numbers, Shape, draw_with_free_decider
from proofs_check.numerics import gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

STEP = 0.01  # relative distance from a boundary at which its two sides are read
GENERAL, BELOW, ABOVE, EVEN = range(4)  # the cases of `Setting.trajectory` and `Setting.own`
Rounds = tuple[jax.Array, ...]  # one array a round
TAXED = "trajectory less own-token KL: beta K per visit, > 0"
TURNS = "decision at its reference: STOP pushed up iff r - V + c + beta K > 0, on both sides"


class Parts(NamedTuple):
    """What the statement adds up, f[Q, H_d, A] by the decider's context; each is summed over visits.

    STOP gradient = reward + beta (tax - ratio): see `at`.
    """

    visits: jax.Array  # rho pi_stop pi_res
    reward: jax.Array  # rho pi_stop pi_res (r - V_(t+1) + c)
    tax: jax.Array  # rho pi_stop pi_res K_(t+1)
    ratio: jax.Array  # rho pi_stop pi_res (log-ratio STOP - log-ratio RESAMPLE)

    def at(self, beta: jax.Array) -> jax.Array:
        """The gradient on the STOP logits."""
        return self.reward + beta * (self.tax - self.ratio)


def kl_to_go(process: DecisionSamplingProcess, tables: Tables, reference: Tables) -> Rounds:
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


def with_own_token_kl(beta: Any, estimator: str = "k2") -> Objective:
    """J with beta times the own-token KL in the loss."""
    return partial(reinforce, token_kl=beta, kl_estimator=estimator)


def boundary(parts: Parts) -> jax.Array:
    """f[Q, H_d, A]: beta* = (V - c - r)/K, visit-weighted, where the push turns; decision at its reference.

    Infinite where r >= V - c: reward alone already pushes to STOP, and so does every beta.
    """
    return jnp.where(parts.reward < 0, -parts.reward / parts.tax, jnp.inf)


class Setting(instances.Setting):
    """Both sides of every claim: closed forms from dense tables, gradients from the library's objectives."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        beta_key, homogeneous_key = jax.random.split(instance.key)
        self.beta = jax.random.uniform(beta_key, (), minval=0.1, maxval=1.0)
        self.ref_logp = log_probs(self.policy, instance.reference, self.traj)
        self.reference = self.process.tables(self.ref_logp)
        # V to go of the theory: the library's V counts costs already paid, so they are added back.
        self.V = tuple(V + self.process.cost * t for t, V in enumerate(self.values.V))
        self.K = kl_to_go(self.process, self.tables, self.reference)
        self.parts = self.sums(self.reference, self.next(self.V), self.next(self.K))

        # The decider at its reference everywhere: no `ratio`, and a K of answers alone.
        at_logp = jnp.where(self.traj.decision_mask, self.logp, self.ref_logp)
        at = self.reference.replace(log_stop=self.tables.log_stop, log_resample=self.tables.log_resample)
        K = kl_to_go(self.process, self.tables, at)
        self.at_reference = self.sums(at, self.next(self.V), self.next(K))
        # Just below the first boundary and just above the last.
        turn = boundary(self.at_reference)
        turns = jnp.isfinite(turn)
        low, high = (1.0 - STEP) * jnp.min(turn), (1.0 + STEP) * jnp.max(jnp.where(turns, turn, 0.0))
        self.betas = jnp.where(jnp.any(turns), jnp.stack([low, high]), self.beta)

        references, betas = [self.ref_logp, at_logp, at_logp], [self.beta, self.betas[0], self.betas[1]]
        if self.shape.saturated:
            references.append(self._homogeneous(homogeneous_key))
            betas.append(self.beta)
        # f[3 or 4, Q, H_d, A, 2] measured: general, below, above and, of tables, homogeneous.
        stacked = jnp.stack(references), jnp.stack(betas)
        self.trajectory, self.own = (self._measured(*stacked, f) for f in (with_trajectory_kl, with_own_token_kl))

    def next(self, x: Rounds) -> Rounds:
        """Round t + 1's entry of the history (h_t, y_t), T - 1 arrays [Q, A^t, A]."""
        like = self.tables.log_sample
        return tuple(after.reshape(now.shape) for after, now in zip(x[1:], like[:-1], strict=True))

    def sums(self, reference: Tables, V: Rounds, K: Rounds) -> Parts:
        """The statement's sums, from V and K of the next round, T - 1 arrays that broadcast to [Q, A^t, A]."""
        process, tables, rho = self.process, self.tables, self.visitation.answer
        r = process.reward_table[:, None, :]
        visits, reward, tax, ratio = [], [], [], []
        for t in range(process.rounds - 1):
            stop, resample = tables.log_stop[t], tables.log_resample[t]
            visits.append(rho[t] * jnp.exp(stop + resample))
            reward.append(visits[t] * (r - V[t] + process.cost))
            tax.append(visits[t] * K[t])
            ratio.append(visits[t] * ((stop - reference.log_stop[t]) - (resample - reference.log_resample[t])))
        return Parts(*(by_context(process, blocks) for blocks in (visits, reward, tax, ratio)))

    def late_sums(self) -> Parts:
        """The same, with V and K of the decision's own round."""
        V, K = (tuple(entry[..., None] for entry in x[:-1]) for x in (self.V, self.K))
        return self.sums(self.reference, V, K)

    def _homogeneous(self, key: jax.Array) -> jax.Array:
        """Log-probs of a reference with KL k_s in every sampling context and k_d in every decision context."""
        flat, unravel = ravel_pytree(self.params)
        numbers = Numbers(key, flat.size, 2)
        direction = unravel(numbers.normal(flat.size))
        self.k_s, self.k_d = 0.05 + 0.25 * numbers.uniform(2)
        kl = {"sample": self.k_s, "decision": self.k_d}
        even = {name: tilted(direction[name], logits, kl[name]) for name, logits in self.params.items()}
        return log_probs(self.policy, even, self.traj)

    def tax_of(self, length: int) -> jax.Array:
        """f[Q, H_d, A]: the tax that it makes in closed form, if answers had that length."""
        answers, decisions = (self.next(tuple(x)) for x in _expected_left(self.process, self.tables))
        K = tuple(length * self.k_s * a + self.k_d * d for a, d in zip(answers, decisions, strict=True))
        return self.sums(self.reference, K, K).tax  # whatever V

    def _measured(self, ref_logp_NxBxS: jax.Array, beta_N: jax.Array, objective: Callable) -> jax.Array:
        """f[N, Q, H_d, A, 2]: the library's gradient on the decider's logits for N references and betas."""

        def one(ref_logp: jax.Array, beta: jax.Array) -> jax.Array:
            charged = self.traj.replace(ref_logp=ref_logp)
            return component_gradients(self.policy, self.params, charged, objective(beta)).decision["decision"]

        return jax.vmap(one)(ref_logp_NxBxS, beta_N)

    def regularised(self, decide: jax.Array) -> jax.Array:
        """The exact J - beta KL(P || P_ref) at these decision logits."""
        params: Params = {**self.params, "decision": decide}
        logp = log_probs(self.policy, params, self.traj)
        payoff = self.returns - self.beta * jnp.sum(jnp.where(self.traj.mask, logp - self.ref_logp, 0.0), -1)
        return self.process.expected_return(self.process.tables(logp), payoff)

    @property
    def on_stop(self) -> jax.Array:
        """f[Q, H_d, A]: measured on the STOP logits, general case."""
        return self.trajectory[GENERAL][..., STOP]

    @property
    def own_on_stop(self) -> jax.Array:
        """The same with own-token KL."""
        return self.own[GENERAL][..., STOP]

    @cached_property
    def by_k3(self) -> tuple[jax.Array, jax.Array]:
        """The same with the estimators k3 and k3_ratio."""
        traj = self.traj.replace(ref_logp=self.ref_logp)
        objectives = [with_own_token_kl(self.beta, name) for name in ("k3", "k3_ratio")]
        c_2xBxS = jnp.stack([coefficients(objective, self.logp, traj) for objective in objectives])
        k3, k3_ratio = gradients_of(self.policy, self.params, traj, c_2xBxS).decision["decision"][..., STOP]
        return k3, k3_ratio

    @cached_property
    def forward(self) -> jax.Array:
        """f[Q, H_d, A]: rho (pi_stop - ref_stop), the slope of rho KL(ref || pi) on the STOP logits."""
        rho = self.visitation.answer[:-1]
        laws = zip(rho, self.tables.log_stop, self.reference.log_stop, strict=True)
        return by_context(self.process, [mass * (jnp.exp(own) - jnp.exp(ref)) for mass, own, ref in laws])

    @property
    def growth(self) -> jax.Array:
        """f[Q, H_d, A]: the measured tax of homogeneous drift."""
        return (self.trajectory[EVEN] - self.own[EVEN])[..., STOP] / self.beta

    def right_way(self, measured: jax.Array) -> jax.Array:
        """Least push per visit, in units of max(1, beta), in the direction that the statement gives on either side."""
        parts, units = self.at_reference, jnp.maximum(1.0, self.betas)
        below, above = measured[BELOW][..., STOP], measured[ABOVE][..., STOP]
        low = jnp.where(parts.reward < 0, -below, below) / (parts.visits * units[0])
        return jnp.minimum(jnp.min(low), jnp.min(above / (parts.visits * units[1])))


THEOREM = Theorem(
    STATEMENTS["T7"],
    shapes=(
        Shape(rounds=2, length=2, vocabulary=3, prompts=2),
        Shape(rounds=3, length=1, vocabulary=4, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=5, network=True),
        Shape(rounds=2, length=3, vocabulary=2, history="none", graded=True),
        Shape(rounds=2, length=4, vocabulary=2, cost=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        without_pushes(TURNS, TAXED),
        Spared("tie", "where r = V - c no beta > 0 is below the boundary", (TURNS,)),
        Spared("same", "without drift there is no tax and nothing turns", (TURNS, TAXED)),
    ),
    requires=(RESAMPLES, MIXED_IF_BINARY),
    draw=draw_with_free_decider,
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere, saturated = THEOREM.on(), THEOREM.on(lambda shape: shape.saturated)

everywhere.equation(
    "trajectory KL in the reward: gradient of the exact J - beta KL(P || P_ref) on the decider",
    lambda s: gap(s.trajectory[GENERAL], jax.grad(s.regularised)(s.params["decision"])),
)
_formula = everywhere.equation(
    "STOP: sum of rho pi_stop pi_res [r - V + c + beta K - beta (log-ratio STOP - log-ratio RESAMPLE)]",
    lambda s: gap(s.on_stop, s.parts.at(s.beta)),
)
everywhere.equation("RESAMPLE: the negative of that", lambda s: gap(s.trajectory[GENERAL][..., 1 - STOP], -s.on_stop))
_own = everywhere.equation(
    "own-token KL: the same without beta K", lambda s: gap(s.own_on_stop, s.parts.reward - s.beta * s.parts.ratio)
)
everywhere.equation(
    "own-token KL by k3 times the ratio: the same as by k2",
    lambda s: gap(s.by_k3[1], s.parts.reward - s.beta * s.parts.ratio),
)
_forward = everywhere.equation(
    "own-token KL by k3: beta rho (pi_stop - ref_stop) instead, and no K either",
    lambda s: gap(s.by_k3[0], s.parts.reward - s.beta * s.forward),
)
everywhere.equation(
    TAXED,
    lambda s: gap(s.on_stop - s.own_on_stop, s.beta * s.parts.tax),
    margin=lambda s: jnp.min((s.on_stop - s.own_on_stop) / s.parts.visits),
    strict=True,
)
_growth = saturated.equation(
    "homogeneous drift: K = L k_s E[answers to go] + k_d E[decisions to go]",
    lambda s: gap(s.growth, s.tax_of(s.shape.length)),
)
# Per visit, in units of max(1, beta): the gradient is exact to SUM/100 of rho pi_stop pi_res max(1, beta).
_flip = everywhere.inequality(
    TURNS,
    lambda s: s.right_way(s.trajectory),
    strict=True,
)

everywhere.control("K dropped", _formula, lambda s: gap(s.on_stop, s.parts.reward - s.beta * s.parts.ratio))
everywhere.control(
    "K_t for K_(t+1)", _formula, lambda s: gap(s.on_stop, s.parts._replace(tax=s.late_sums().tax).at(s.beta))
)
everywhere.control(
    "V_t for V_(t+1)", _formula, lambda s: gap(s.on_stop, s.parts._replace(reward=s.late_sums().reward).at(s.beta))
)
everywhere.control("log-ratio term left out", _formula, lambda s: gap(s.on_stop, s.parts.reward + s.beta * s.parts.tax))
everywhere.control("own-token KL said to carry the same tax", _own, lambda s: gap(s.own_on_stop, s.parts.at(s.beta)))
everywhere.control(
    "k3 said to be the reverse KL", _forward, lambda s: gap(s.by_k3[0], s.parts.reward - s.beta * s.parts.ratio)
)
# Binary and c = 0: 0 < V < 1, so reward alone resamples every wrong answer and there is something to turn.
THEOREM.on(lambda shape: not shape.graded and not shape.cost).control(
    "own-token KL said to turn the push beyond the boundary", _flip, lambda s: shortfall(s.right_way(s.own))
)
THEOREM.on(lambda shape: shape.length >= 2).control(
    "K said not to grow with L", _growth, lambda s: gap(s.growth, s.tax_of(1))
)

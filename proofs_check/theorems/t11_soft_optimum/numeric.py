"""T11: the optimum of J - beta KL tilts each factor by its advantage over beta, answers and decisions alike."""

from __future__ import annotations

from functools import cached_property

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients
from dsjax.objectives import reward_with_kl
from dsjax.policies import Params, log_probs
from dsjax.process import DecisionSamplingProcess, Tables
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import tree_logits
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t07_kl_tax.numeric import Rounds, kl_to_go, with_trajectory_kl

# A gradient entry is a sum over trajectories of probability x coefficient x score. |score| <= 1, the probabilities add
# up to 1, and at the optimum the coefficient is one constant of order one a prompt, up to the rounding of R - beta Lam.
# That is beta x (S log-probs of order 3) x EPS <= 6 x 30 x EPS; weights are good to 30 EPS and the sum over B <= 100
# trajectories adds B EPS: 7e-14 together.
ZERO = 1e-12


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


class Setting(instances.Setting):
    """The soft-Bellman policy of a random reference and temperature."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        # From strong tilts to weak ones; at 0.6 an answer can gain a factor exp(1/0.6) = 5 on another.
        self.beta = jnp.exp(jax.random.uniform(instance.key, (), minval=jnp.log(0.6), maxval=jnp.log(6.0)))
        ref_logp = log_probs(self.policy, instance.reference, self.traj)
        self.traj = self.traj.replace(ref_logp=ref_logp)
        self.reference = self.process.tables(ref_logp)
        self.at_reference = self.process.values(self.reference, self.traj.reward)
        # V*_t(h) to go, T arrays [Q, A^t]; the soft-Bellman policy by rounds; V* = sum_q mu(q) V*_1(q).
        soft_value, self.soft = soft_bellman(self.process, self.reference, self.beta)
        self.V_Q = soft_value[0][:, 0]
        self.V = jnp.sum(self.process.prompt_law * self.V_Q)
        self.width = 1.0 + self.process.cost * (self.process.rounds - 1)
        if self.shape.saturated:  # what follows needs a policy that can be put at the optimum
            # As logits; without history, the tilts of round 1. `found` is what they give.
            self.star = as_logits(self.process, self.soft)
            self.law = self.at(self.star)
            self.found = self.process.tables(log_probs(self.policy, self.star, self.traj))
            (self.zero_s,), (self.zero_d,) = self.largest([self.star], [1.0])

    def at(self, params: Params) -> Trajectories:
        """The law of all trajectories under other parameters."""
        return self.traj.under(log_probs(self.policy, params, self.traj), self.process.prompt_law[self.traj.group])

    def largest(self, params: list[Params], scales: list[float]) -> tuple[jax.Array, jax.Array]:
        """Largest entry of (G_s, G_d) of J - scale beta KL at each of the parameters, f[N] each."""

        def one(p: Params, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
            objective = with_trajectory_kl(scale * self.beta)
            found = component_gradients(self.policy, p, self.at(p), objective)
            zero = jax.tree.map(jnp.zeros_like, p)
            return gap(found.sample, zero), gap(found.decision, zero)

        return jax.vmap(one)(jax.tree.map(lambda *x: jnp.stack(x), *params), jnp.asarray(scales))

    @cached_property
    def wrong(self) -> tuple[jax.Array, jax.Array]:
        """The same where temperature, values or decider are off."""
        half = {**self.star, "decision": self.instance.reference["decision"]}
        return self.largest([self.star, as_logits(self.process, self.hard()), half], [1.01, 1.0, 1.0])

    def short(self, traj: Trajectories) -> jax.Array:
        """V* - (J - beta KL(P || P_ref)), with the library's KL in the reward."""
        return self.V - jnp.sum(traj.weight * reward_with_kl(traj, self.beta))

    def kl(self, tables: Tables, reference: Tables) -> jax.Array:
        """KL of whole trajectories."""
        return jnp.sum(self.process.prompt_law * kl_to_go(self.process, tables, reference)[0][:, 0])

    def hard(self) -> Tables:
        """Tilt by the values of the reference itself: pi_ref exp(A/beta) up to the constant of each context."""
        reference, values, beta = self.reference, self.at_reference, self.beta
        answers = [x + U / beta for x, U in zip(reference.log_sample, values.U, strict=True)]
        keep = [x + A / beta for x, A in zip(reference.log_stop, values.advantage_stop, strict=True)]
        go = [x + A / beta for x, A in zip(reference.log_resample, values.advantage_resample, strict=True)]
        mass = [jnp.logaddexp(x, y) for x, y in zip(keep, go, strict=True)]
        return Tables(
            tuple(x - jax.nn.logsumexp(x, axis=-1, keepdims=True) for x in answers),
            tuple(x - m for x, m in zip(keep, mass, strict=True)),
            tuple(x - m for x, m in zip(go, mass, strict=True)),
        )

    def slack(self, new: Rounds, old: Rounds, advantage: Rounds, scale: float = 1.0) -> jax.Array:
        """min of w^2/(8 beta) - |beta log-ratio - scale x advantage|; w = 1 + c (T - t), range of the return to go."""
        widths = [1.0 + self.process.cost * (self.process.rounds - 1 - t) for t in range(len(new))]
        rounds = zip(widths, new, old, advantage, strict=True)
        return jnp.min(
            jnp.stack(
                [jnp.min(w**2 / (8.0 * self.beta) - jnp.abs(self.beta * (x - y) - scale * A)) for w, x, y, A in rounds]
            )
        )

    def answer_slack(self, tables: Tables, tokens: float = 1.0) -> jax.Array:
        """Of all answers; `tokens` multiplies A^s."""
        advantage = self.at_reference.advantage_sample
        return self.slack(tables.log_sample, self.reference.log_sample, advantage, tokens)

    def decision_slack(self, tables: Tables) -> jax.Array:
        """Of all decisions."""
        ref, values = self.reference, self.at_reference
        stop = self.slack(tables.log_stop, ref.log_stop, values.advantage_stop)
        return jnp.minimum(stop, self.slack(tables.log_resample, ref.log_resample, values.advantage_resample))


def _expressible(shape: Shape) -> bool:
    """Whether a saturated policy can give each round its own tilt."""
    return shape.saturated and shape.sampler_sees


THEOREM = Theorem(
    STATEMENTS["T11"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, prompts=2, graded=True, cost=True),
        Shape(rounds=1, length=2, vocabulary=3, prompts=2),
        Shape(rounds=2, length=3, vocabulary=2, prompts=3, history="none", cost=True),
        Shape(rounds=2, length=1, vocabulary=5, graded=True, cost=True, network=True),
        Shape(rounds=4, length=1, vocabulary=4, shared=4),
        Shape(rounds=2, length=4, vocabulary=2),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True),
        Shape(rounds=2, length=6, vocabulary=2, history="none"),
    ),
    requires=(MIXED_IF_BINARY,),
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere, optimal = THEOREM.on(), THEOREM.on(_expressible)
decides = THEOREM.on(lambda shape: _expressible(shape) and shape.rounds >= 2)
blind = THEOREM.on(lambda shape: shape.saturated and not shape.sampler_sees)

_zero_s = optimal.equation(
    "gradient of J - beta KL(P || P_ref) on pi_sample is 0 at the soft-Bellman policy",
    lambda s: s.zero_s,
    ZERO,
)
_zero_d = optimal.equation(
    "gradient of J - beta KL(P || P_ref) on pi_d is 0 at the soft-Bellman policy", lambda s: s.zero_d, ZERO
)
optimal.equation(
    "R - beta Lam = V*_1(q) on every single trajectory of the soft-Bellman policy",
    lambda s: gap(reward_with_kl(s.law, s.beta), s.V_Q[s.traj.group]),
)
optimal.equation(
    "J - beta KL(P || P_ref) at the soft-Bellman policy = soft value", lambda s: gap(s.V - s.short(s.law), s.V)
)
_regret = everywhere.equation(
    "any policy: soft value - (J - beta KL(P || P_ref)) = beta KL(P || P*)",
    lambda s: gap(s.short(s.traj), s.beta * s.kl(s.tables, s.soft)),
)
blind.inequality(
    "no history, T >= 2: the tilt of round 1 in every round is below the soft value",
    lambda s: s.short(s.law),
    strict=True,
)
_tilt_s = optimal.inequality(
    "per answer: |beta log(pi*/pi_ref) - A^s| <= w^2/(8 beta)", lambda s: s.answer_slack(s.found)
)
decides.inequality("per decision: |beta log(pi*/pi_ref) - A^d| <= w^2/(8 beta)", lambda s: s.decision_slack(s.found))
optimal.inequality(
    "KL(P* || P_ref) <= w^2/(8 beta^2), whatever L",
    lambda s: s.width**2 / (8.0 * s.beta**2) - s.kl(s.found, s.reference),
)

optimal.control("beta 1% off", _zero_s, lambda s: s.wrong[0][0])
# In the last round soft and hard values agree, and nothing is decided.
decides.control("tilt by the reference's hard values", _zero_s, lambda s: s.wrong[0][1])
decides.control("decider left at its reference", _zero_d, lambda s: s.wrong[1][2])
blind.control("no history: the tilt of round 1 in every round", _zero_s, lambda s: s.zero_s)
everywhere.control(
    "penalty left out of the objective",
    _regret,
    lambda s: gap(s.V - jnp.sum(s.traj.weight * s.traj.reward), s.beta * s.kl(s.tables, s.soft)),
)
# In the last round some answer has |A| >= 1/2, and from beta = 0.6 that is more than the bound's two sides.
THEOREM.on(lambda shape: _expressible(shape) and shape.length >= 2 and not shape.graded).control(
    "advantage over beta on every token of the answer",
    _tilt_s,
    lambda s: shortfall(s.answer_slack(s.soft, float(s.shape.length))),
)

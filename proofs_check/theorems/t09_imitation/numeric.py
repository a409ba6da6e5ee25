"""T9: demonstrations of right answers followed by STOP teach pi_d nothing but STOP."""

from __future__ import annotations

from functools import cached_property

import jax
import jax.numpy as jnp

from dsjax.attribution import ComponentGradients, component_gradients, loss_of
from dsjax.evaluation.accounting import final_accuracy
from dsjax.numerics import divide
from dsjax.objectives import sft
from dsjax.policies import Params, PositionwisePolicy, log_probs
from dsjax.process import Tables
from dsjax.trajectories import STOP, Trajectories
from proofs_check.closed_forms import by_decider, context_counts
from proofs_check.extremes import WITHOUT_COST, WITHOUT_REFERENCE, without_pushes
from proofs_check.instances import Instance, Shape, draw_with_free_decider
from proofs_check.numerics import gap, shortfall
from proofs_check.requirements import BINARY, FREE, MIXED, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

CERTAIN = 800.0  # nats: exp(-800) is exactly 0, so this logit stands for the limit pi_stop = 1
SPREAD = 3.0  # "any finite logits": standard deviation of the decider's


class Demonstrator:
    """What a law of trajectories does in each context, and its SFT likelihood at the policy's finite logits."""

    def __init__(self, setting: Setting, traj: Trajectories):
        self.setting, self.traj = setting, traj
        counts = context_counts(setting.process, traj.weight)
        self.stop, self.resample = (
            counts["decision"][..., STOP],
            counts["decision"][..., 1 - STOP],
        )  # f[Q, H_d, A]: n(x, .)
        self.visits = self.stop + self.resample  # f[Q, H_d, A]: nu(x)
        self.tokens = jnp.sum(counts["sample"]) + jnp.sum(self.visits)  # f[]: N, expected tokens a demonstration
        self.visits_Q = jnp.sum(self.visits, (1, 2))

    @cached_property
    def _gradients(self) -> ComponentGradients:
        return component_gradients(self.setting.policy, self.setting.params, self.traj, sft)

    @property
    def gradient(self) -> jax.Array:
        """f[Q, H_d, A]: on the STOP logits."""
        return self._gradients.decision["decision"][..., STOP]

    def formula(self, n_stop: jax.Array) -> jax.Array:
        """Distance of the gradient from n (1 - pi_stop) / N."""
        return gap(self.gradient, n_stop * (1.0 - self.setting.stop) / self.tokens)

    @property
    def push(self) -> jax.Array:
        """Smallest gradient on STOP per visit, over the contexts that are visited."""
        return jnp.min(divide(self.gradient * self.tokens, self.visits, jnp.inf))

    @cached_property
    def supremum(self) -> tuple[jax.Array, jax.Array]:
        """At pi_stop = 1 on all visits the decider costs nothing, and the whole loss is less than the one given.

        (Error, margin).
        """
        s, traj = self.setting, self.traj
        limit = loss_of(sft, log_probs(s.policy, s.certain(self.visits > 0), traj), traj)
        sampler = -jnp.sum(traj.weight * jnp.sum(jnp.where(traj.sample_mask, s.logp, 0.0), -1)) / self.tokens
        margin = self._gradients.loss - limit
        return jnp.maximum(gap(limit, sampler), shortfall(margin)), margin

    def blind(self, stop_logit_Q: jax.Array) -> jax.Array:
        """f[Q]: gradient on the STOP logits of a decider that sees the prompt only (RESAMPLE logit 0).

        The sampler next to it does not matter: the likelihood is a sum over components.
        """
        process = self.setting.process
        policy = PositionwisePolicy(process.num_prompts, process.vocabulary, process.length, reads=0)
        sample = jnp.zeros((process.num_prompts, process.length, process.vocabulary))
        params = {"sample": sample, "decision": _against_0(stop_logit_Q)[:, None]}
        return component_gradients(policy, params, self.traj, sft).decision["decision"][:, 0, STOP]

    def blind_formula(self, gradient_Q: jax.Array, stop_logit_Q: jax.Array) -> jax.Array:
        """Distance of that gradient from nu(q) (1 - pi_stop) / N."""
        return gap(gradient_Q, self.visits_Q * jax.nn.sigmoid(-stop_logit_Q) / self.tokens)


def _against_0(stop_logit: jax.Array) -> jax.Array:
    return jnp.stack([stop_logit, jnp.zeros_like(stop_logit)], axis=-1)


class Setting:
    """A policy and two demonstrators; every prompt is shown at least one of its right answers, not always all.

    nu: right first answers, STOP. nu': the same and, half of the time, a wrong answer, RESAMPLE, a right one.
    """

    def __init__(self, instance: Instance):
        self.process, self.policy, self.shape = instance.process, instance.policy, instance.shape
        self.right = self.process.reward_table
        right = self.right > 0.5
        weight_key, keep_key = jax.random.split(instance.key)
        self.support = support = self.process.support(static=True)
        blocks = self.process.split(jax.random.uniform(weight_key, support.weight.shape, minval=0.5, maxval=1.5))
        first = right & (jnp.cumsum(right, -1) == 1)
        self.shown = first | (right & jax.random.bernoulli(keep_key, 0.6, right.shape))  # bool[Q, A]: by nu
        nothing = [jnp.zeros_like(b) for b in blocks]
        alone = self.process.join((jnp.where(self.shown[:, None], blocks[0], 0.0), *nothing[1:]))
        repaired = jnp.where(~right[:, :, None] & right[:, None, :], blocks[1], 0.0)
        after = self.process.join((nothing[0], repaired, *nothing[2:]))
        nu, wrong_first = alone / jnp.sum(alone), after / jnp.sum(after)
        # With the decider's logits spread out.
        self.params: Params = {**instance.params, "decision": SPREAD * instance.params["decision"]}
        self.logp = log_probs(self.policy, self.params, support)
        self.tables = self.process.tables(self.logp)
        self.stop = jnp.exp(by_decider(self.process, self.tables.log_stop))  # f[Q, H_d, A]: pi_stop
        self.success = Demonstrator(self, support.replace(weight=nu))
        self.mixed = Demonstrator(self, support.replace(weight=0.5 * (nu + wrong_first)))
        self.answer = jnp.exp(self.tables.log_sample[0][:, 0])  # f[Q, A]: law of first answers

    def certain(self, stop: jax.Array, resample: jax.Array | None = None) -> Params:
        """The decider in the limit: sure of itself where told so (bool[Q, H_d, A]), else as it was."""
        decide = jnp.where(stop[..., None], jnp.asarray([CERTAIN, 0.0]), self.params["decision"])
        if resample is not None:
            decide = jnp.where(resample[..., None], jnp.asarray([0.0, CERTAIN]), decide)
        return {**self.params, "decision": decide}

    def tables_of(self, params: Params) -> Tables:
        """The policy's laws by round, at other parameters."""
        return self.process.tables(log_probs(self.policy, params, self.support))

    def accuracy(self, tables: Tables) -> jax.Array:
        """f[Q]: accuracy of the enumerated process."""
        return self.process.values(tables, self.support.reward).V[0][:, 0]

    @cached_property
    def learnt(self) -> Tables:
        """The laws once success is imitated."""
        return self.tables_of(self.certain(self.success.visits > 0))

    @property
    def rise(self) -> jax.Array:
        """f[]: of J, from imitating success."""
        return jnp.sum(self.process.prompt_law * (self.accuracy(self.learnt) - self.accuracy(self.tables)))

    def kept(self, reached: Tables, *, decided: bool = True) -> jax.Array:
        """f[]: sum over the visits of shown answers of 1 - U_t; not `decided`: 1 - V_(t+1), as if never stopped before.

        Args:
          reached: the laws under which they are visited.
          decided: whether U or V.
        """
        values, rho = self.process.values(self.tables, self.support.reward), self.process.visitation(reached).answer
        total = jnp.zeros(())
        for t in range(self.shape.rounds - 1 if self.shape.history == "none" else 1):
            old = values.U[t] if decided else values.V[t + 1].reshape(rho[t].shape)
            total += jnp.sum(jnp.where(self.shown[:, None], rho[t] * (1.0 - old), 0.0))
        return total

    def imitated(self) -> jax.Array:
        """f[Q]: acc_T(p, a*, b) from the policy before imitation (memoryless)."""
        right, answer, stop = self.right, self.answer, self.stop[:, 0]
        p, wrong = jnp.sum(answer * right, -1), jnp.sum(answer * (1 - right), -1)
        a = jnp.sum(answer * right * jnp.where(self.shown, 1.0, stop), -1) / p
        b = jnp.sum(answer * (1 - right) * stop, -1) / wrong
        return final_accuracy(p, a, b, self.shape.rounds)

    def blind_outcome(self, stop_logit_Q: jax.Array) -> jax.Array:
        """Distance from one round and first-attempt accuracy, if the decider stops by prompt only."""
        process, decide = self.process, _against_0(stop_logit_Q)[:, None, None]
        params = {**self.params, "decision": jnp.broadcast_to(decide, self.params["decision"].shape)}
        traj = process.enumerate_trajectories(self.policy, params, static=True)
        rounds = sum(((t + 1) * jnp.sum(block) for t, block in enumerate(process.split(traj.weight))), jnp.zeros(()))
        first = jnp.sum(self.answer * self.right, -1)
        one = jnp.ones_like(first)
        errors = (
            gap(jnp.sum(traj.weight * traj.reward), jnp.sum(process.prompt_law * first)),
            gap(final_accuracy(first, one, one, self.shape.rounds), first),
            gap(rounds, 1.0),
        )
        return jnp.max(jnp.stack(errors))

    @cached_property
    def blind(self) -> jax.Array:
        """f[Q]: gradient of imitated success on a blind decider with `stop_logit`."""
        return self.success.blind(self.stop_logit)

    @property
    def stop_logit(self) -> jax.Array:
        """f[Q]: of a blind decider, some number."""
        return self.params["decision"][:, 0, 0, STOP]

    @property
    def optimum(self) -> jax.Array:
        """f[Q]: of a blind decider that imitates nu', how often that one stops at this prompt."""
        return jnp.log(jnp.sum(self.mixed.stop, (1, 2))) - jnp.log(jnp.sum(self.mixed.resample, (1, 2)))


THEOREM = Theorem(
    STATEMENTS["T9"],
    shapes=(
        Shape(rounds=2, length=3, vocabulary=2, prompts=2),
        Shape(rounds=4, length=1, vocabulary=4, history="none"),
        Shape(rounds=3, length=1, vocabulary=5),
        Shape(rounds=2, length=2, vocabulary=3, network=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=2, length=5, vocabulary=2, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        *WITHOUT_COST,
        WITHOUT_REFERENCE,
        without_pushes(
            "> 0 in every context of the demonstrations, at any finite logits",
            "pi_stop = 1 there: pi_d costs nothing, the likelihood exceeds that at any finite logits",
            "saturated: J rises by the sum over shown answers of (probability to reach them then) x (1 - U_t) > 0",
            "blind pi_d: gradient on logit_STOP = nu(q) (1 - pi_stop) / N > 0",
        ),
    ),
    requires=(BINARY, FREE, RESAMPLES, MIXED),
    draw=draw_with_free_decider,
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere, memoryless = THEOREM.on(), THEOREM.on(lambda shape: shape.history == "none")
saturated = THEOREM.on(lambda shape: shape.saturated)  # a blind decider takes the place of the policy's own

_formula = everywhere.equation(
    "gradient on logit_STOP = nu (1 - pi_stop) / N", lambda s: s.success.formula(s.success.stop)
)
# Per visit it is 1 - pi_stop, with rounding EPS: positive as long as two logits differ by less than 36.
_sign = everywhere.inequality(
    "> 0 in every context of the demonstrations, at any finite logits", lambda s: s.success.push, strict=True
)


def _elsewhere(s: Setting, demonstrator: Demonstrator) -> jax.Array:
    return jnp.max(jnp.where(s.success.visits > 0, 0.0, jnp.abs(demonstrator.gradient)))


# Every term of these sums is an exact zero.
_zero = everywhere.equation("exactly 0 in every other context", lambda s: _elsewhere(s, s.success), 0.0)
_supremum = everywhere.equation(
    "pi_stop = 1 there: pi_d costs nothing, the likelihood exceeds that at any finite logits",
    lambda s: s.success.supremum[0],
    margin=lambda s: s.success.supremum[1],
    strict=True,
)
_accuracy = memoryless.equation(
    "saturated, memoryless: then acc = acc_T(p, a*, b), a* -> 1 on what was shown, b untouched",
    lambda s: gap(s.accuracy(s.learnt), s.imitated()),
)
_rise = everywhere.equation(
    "saturated: J rises by the sum over shown answers of (probability to reach them then) x (1 - U_t) > 0",
    lambda s: gap(s.rise, s.kept(s.learnt)),
    margin=lambda s: s.rise,
    strict=True,
)
_blind = saturated.equation(
    "blind pi_d: gradient on logit_STOP = nu(q) (1 - pi_stop) / N > 0",
    lambda s: s.success.blind_formula(s.blind, s.stop_logit),
    margin=lambda s: jnp.min(s.blind / s.success.visits_Q),
    strict=True,
)
_first = saturated.equation(
    "blind pi_d: one round, final accuracy = first-attempt accuracy",
    lambda s: s.blind_outcome(jnp.full_like(s.stop_logit, CERTAIN)),
)

everywhere.control(
    "1 - V_(t+1) for 1 - U_t in the rise of J", _rise, lambda s: gap(s.rise, s.kept(s.learnt, decided=False))
)
THEOREM.on(lambda shape: shape.history == "none" and shape.rounds >= 3).control(
    "answers reached as before imitation", _rise, lambda s: gap(s.rise, s.kept(s.tables))
)

WRONG = "demonstrations with a wrong answer and RESAMPLE first"
everywhere.control(f"{WRONG}: the gradient", _formula, lambda s: s.mixed.formula(s.mixed.visits))
everywhere.control(f"{WRONG}: its sign", _sign, lambda s: shortfall(s.mixed.push))
everywhere.control(f"{WRONG}: its zeros", _zero, lambda s: _elsewhere(s, s.mixed))
everywhere.control(f"{WRONG}: the maximiser", _supremum, lambda s: s.mixed.supremum[0])
memoryless.control(
    f"{WRONG}: b",
    _accuracy,
    lambda s: gap(s.accuracy(s.tables_of(s.certain(s.shown[:, None], s.mixed.resample > 0))), s.imitated()),
)
everywhere.control(
    f"{WRONG}: a blind pi_d's gradient", _blind, lambda s: s.mixed.blind_formula(s.mixed.blind(s.optimum), s.optimum)
)
everywhere.control(f"{WRONG}: a blind pi_d's optimum", _first, lambda s: s.blind_outcome(s.optimum))

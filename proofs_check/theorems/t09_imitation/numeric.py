"""T9: demonstrations of right answers followed by STOP teach pi_d nothing but STOP."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import component_gradients, loss_of
from dsjax.evaluation.accounting import final_accuracy
from dsjax.objectives import sft
from dsjax.policies import Params, PositionwisePolicy, log_probs
from dsjax.process import Tables
from dsjax.trajectories import STOP, Trajectories
from proofs_check.closed_forms import by_decider, context_counts
from proofs_check.instances import Instance, Shape, draw_with_free_decider
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import BINARY, FREE, MIXED, RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem

CERTAIN = 800.0  # nats: exp(-800) is exactly 0, so this logit stands for the limit pi_stop = 1
SPREAD = 3.0  # "any finite logits": standard deviation of the decider's

CLAIMS = (
    Claim("gradient on logit_STOP = nu (1 - pi_stop) / N", SUM),
    # Per visit it is 1 - pi_stop, with rounding EPS: positive as long as two logits differ by less than 36.
    Claim("> 0 in every context of the demonstrations, at any finite logits", SUM, strict=True),
    # Every term of these sums is an exact zero.
    Claim("exactly 0 in every other context", 0.0),
    Claim("pi_stop = 1 there: pi_d costs nothing, the likelihood exceeds that at any finite logits", SUM, strict=True),
    Claim("saturated, memoryless: then acc = acc_T(p, a*, b), a* -> 1 on what was shown, b untouched", SUM),
    Claim("saturated: J rises, by the right answers that are now kept", SUM, strict=True),
    Claim("blind pi_d: gradient on logit_STOP = nu(q) (1 - pi_stop) / N > 0", SUM, strict=True),
    Claim("blind pi_d: one round, final accuracy = first-attempt accuracy", SUM),
)
(FORMULA, SIGN, ZERO, SUPREMUM, ACCURACY, RISES, BLIND, FIRST) = (c.name for c in CLAIMS)
CONTROLS = tuple(
    Control(f"demonstrations with a wrong answer and RESAMPLE first: {what}", claim)
    for what, claim in (
        ("the gradient", FORMULA),
        ("its sign", SIGN),
        ("its zeros", ZERO),
        ("the maximiser", SUPREMUM),
        ("b", ACCURACY),
        ("a blind pi_d's gradient", BLIND),
        ("a blind pi_d's optimum", FIRST),
    )
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    params: Params  # with the decider's logits spread out
    success: Trajectories  # nu: right first answers, STOP
    mixed: Trajectories  # nu': the same and, half of the time, a wrong answer, RESAMPLE, a right one
    shown: jax.Array  # bool[Q, A]: the answers that nu shows
    logp: jax.Array  # f[B, S] of the policy at `params`
    tables: Tables  # of the same

    @property
    def stop(self) -> jax.Array:
        """f[Q, H_d, A]: pi_stop by the decider's context."""
        return jnp.exp(by_decider(self.instance.process, self.tables.log_stop))


def prepare(instance: Instance) -> Setting:
    """Both demonstrators; every prompt is shown at least one of its right answers, not always all of them."""
    process, right = instance.process, instance.process.reward_table > 0.5
    weight_key, keep_key = jax.random.split(instance.key)
    support = process.support()
    blocks = process.split(jax.random.uniform(weight_key, support.weight.shape, minval=0.5, maxval=1.5))
    first = right & (jnp.cumsum(right, -1) == 1)
    shown = first | (right & jax.random.bernoulli(keep_key, 0.6, right.shape))
    nothing = [jnp.zeros_like(b) for b in blocks]
    alone = process.join((jnp.where(shown[:, None], blocks[0], 0.0), *nothing[1:]))
    repaired = jnp.where(~right[:, :, None] & right[:, None, :], blocks[1], 0.0)
    after = process.join((nothing[0], repaired, *nothing[2:]))
    nu, wrong_first = alone / jnp.sum(alone), after / jnp.sum(after)
    params = {**instance.params, "decision": SPREAD * instance.params["decision"]}
    logp = log_probs(instance.policy, params, support)
    return Setting(
        instance,
        params,
        support.replace(weight=nu),
        support.replace(weight=0.5 * (nu + wrong_first)),
        shown,
        logp,
        process.tables(logp),
    )


class Counts(NamedTuple):
    """What a demonstrator does in each context."""

    stop: jax.Array  # f[Q, H_d, A]: n(x, STOP)
    resample: jax.Array  # f[Q, H_d, A]: n(x, RESAMPLE)
    sample: jax.Array  # f[Q, H_s, C, V]: n(x, token)

    @property
    def visits(self) -> jax.Array:
        """f[Q, H_d, A]: nu(x)."""
        return self.stop + self.resample

    @property
    def tokens(self) -> jax.Array:
        """f[]: N, expected tokens a demonstration."""
        return jnp.sum(self.sample) + jnp.sum(self.visits)


def _counts(setting: Setting, demos: Trajectories) -> Counts:
    counts = context_counts(setting.instance.process, demos.weight)
    return Counts(counts["decision"][..., STOP], counts["decision"][..., 1 - STOP], counts["sample"])


def _finite(setting: Setting, demos: Trajectories) -> tuple[jax.Array, jax.Array]:
    """(gradient of the SFT likelihood on the STOP logits f[Q, H_d, A], loss), at the policy's finite logits."""
    gradients = component_gradients(setting.instance.policy, setting.params, demos, sft)
    return gradients.decision["decision"][..., STOP], gradients.loss


def _push_per_visit(gradient: jax.Array, counts: Counts) -> jax.Array:
    """Smallest gradient on STOP per visit, over the contexts that are visited."""
    seen = counts.visits > 0
    return jnp.min(jnp.where(seen, gradient * counts.tokens / jnp.where(seen, counts.visits, 1.0), jnp.inf))


def _certain(setting: Setting, stop: jax.Array, resample: jax.Array | None = None) -> Params:
    """The decider in the limit: sure of itself where told so (bool[Q, H_d, A]), else as it was."""
    decide = setting.params["decision"]
    decide = jnp.where(stop[..., None], jnp.asarray([CERTAIN, 0.0]), decide)
    if resample is not None:
        decide = jnp.where(resample[..., None], jnp.asarray([0.0, CERTAIN]), decide)
    return {**setting.params, "decision": decide}


def _accuracy(setting: Setting, tables: Tables) -> jax.Array:
    """f[Q]: accuracy of the enumerated process."""
    return setting.instance.process.values(tables, setting.success.reward).V[0][:, 0]


def _accuracy_in_the_limit(setting: Setting, params: Params) -> jax.Array:
    tables = setting.instance.process.tables(log_probs(setting.instance.policy, params, setting.success))
    return _accuracy(setting, tables)


def _imitated_accuracy(setting: Setting) -> jax.Array:
    """f[Q]: acc_T(p, a*, b) from the policy before imitation (memoryless)."""
    right = setting.instance.process.reward_table
    answer = jnp.exp(setting.tables.log_sample[0][:, 0])
    stop = setting.stop[:, 0]
    p, wrong = jnp.sum(answer * right, -1), jnp.sum(answer * (1 - right), -1)
    a = jnp.sum(answer * right * jnp.where(setting.shown, 1.0, stop), -1) / p
    b = jnp.sum(answer * (1 - right) * stop, -1) / wrong
    return final_accuracy(p, a, b, setting.instance.shape.rounds)


def _supremum(setting: Setting, demos: Trajectories, counts: Counts, finite: jax.Array) -> Measured:
    """At pi_stop = 1 on all visits the decider costs nothing, and the whole loss is less than the one given."""
    params = _certain(setting, counts.visits > 0)
    limit = loss_of(sft, log_probs(setting.instance.policy, params, demos), demos)
    sampler = -jnp.sum(demos.weight * jnp.sum(jnp.where(demos.sample_mask, setting.logp, 0.0), -1)) / counts.tokens
    margin = finite - limit
    return Measured(jnp.maximum(gap(limit, sampler), shortfall(margin)), margin)


def _blind_gradient(setting: Setting, demos: Trajectories, stop_logit_Q: jax.Array) -> jax.Array:
    """f[Q]: of the SFT likelihood, on the STOP logits of a decider that sees the prompt only (RESAMPLE logit 0).

    The sampler next to it does not matter: the likelihood is a sum over components.
    """
    process = setting.instance.process
    policy = PositionwisePolicy(process.num_prompts, process.vocabulary, process.length, reads=0)
    sample = jnp.zeros((process.num_prompts, process.length, process.vocabulary))
    decide = jnp.stack([stop_logit_Q, jnp.zeros_like(stop_logit_Q)], axis=-1)[:, None]
    return component_gradients(policy, {"sample": sample, "decision": decide}, demos, sft).decision["decision"][
        :, 0, STOP
    ]


def _blind_outcome(setting: Setting, stop_logit_Q: jax.Array) -> jax.Array:
    """Distance from one round and first-attempt accuracy, if the decider stops by prompt only."""
    process, right = setting.instance.process, setting.instance.process.reward_table
    shape = setting.params["decision"].shape
    decide = jnp.stack([stop_logit_Q, jnp.zeros_like(stop_logit_Q)], axis=-1)[:, None, None, :]
    params = {**setting.params, "decision": jnp.broadcast_to(decide, shape)}
    traj = process.enumerate_trajectories(setting.instance.policy, params)
    rounds = sum(((t + 1) * jnp.sum(block) for t, block in enumerate(process.split(traj.weight))), jnp.zeros(()))
    first = jnp.sum(jnp.exp(setting.tables.log_sample[0][:, 0]) * right, -1)
    one = jnp.ones_like(first)
    errors = (
        gap(jnp.sum(traj.weight * traj.reward), jnp.sum(process.prompt_law * first)),
        gap(final_accuracy(first, one, one, setting.instance.shape.rounds), first),
        gap(rounds, 1.0),
    )
    return jnp.max(jnp.stack(errors))


def check(setting: Setting) -> dict[str, Measured]:
    """Gradient, sign, zeros and supremum of the likelihood; what the limit does to accuracy; a blind decider."""
    success, process = setting.success, setting.instance.process
    counts = _counts(setting, success)
    pi_stop = setting.stop
    gradient, loss = _finite(setting, success)
    push = _push_per_visit(gradient, counts)
    accuracy = _accuracy_in_the_limit(setting, _certain(setting, counts.visits > 0))
    gain = jnp.sum(process.prompt_law * (accuracy - _accuracy(setting, setting.tables)))
    measured = {
        FORMULA: Measured(gap(gradient, counts.stop * (1.0 - pi_stop) / counts.tokens)),
        SIGN: Measured(shortfall(push), push),
        ZERO: Measured(jnp.max(jnp.where(counts.visits > 0, 0.0, jnp.abs(gradient)))),
        SUPREMUM: _supremum(setting, success, counts, loss),
        RISES: Measured(shortfall(gain), gain),
    }
    if setting.instance.shape.saturated:  # a blind decider takes the place of the policy's own
        stop_logit = setting.params["decision"][:, 0, 0, STOP]
        blind = _blind_gradient(setting, success, stop_logit)
        nu_Q = jnp.sum(counts.visits, (1, 2))
        push = blind / nu_Q
        measured |= {
            BLIND: Measured(gap(blind, nu_Q * jax.nn.sigmoid(-stop_logit) / counts.tokens), jnp.min(push)),
            FIRST: Measured(_blind_outcome(setting, jnp.full_like(stop_logit, CERTAIN))),
        }
    if setting.instance.shape.history == "none":
        measured[ACCURACY] = Measured(gap(accuracy, _imitated_accuracy(setting)))
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """Every claim again, of demonstrations in which wrong answers are followed by RESAMPLE."""
    mixed = setting.mixed
    if not setting.instance.shape.saturated:  # nothing keeps a network from being almost certain
        return {}
    counts = _counts(setting, mixed)
    pi_stop = setting.stop
    gradient, loss = _finite(setting, mixed)
    shown = _counts(setting, setting.success).visits > 0
    # The optimum of a blind decider is how often the demonstrator stops at this prompt.
    stop_Q, resample_Q = jnp.sum(counts.stop, (1, 2)), jnp.sum(counts.resample, (1, 2))
    optimum = jnp.log(stop_Q) - jnp.log(resample_Q)
    blind = _blind_gradient(setting, mixed, optimum)
    errors = {
        FORMULA: gap(gradient, counts.visits * (1.0 - pi_stop) / counts.tokens),
        SIGN: shortfall(_push_per_visit(gradient, counts)),
        ZERO: jnp.max(jnp.where(shown, 0.0, jnp.abs(gradient))),
        SUPREMUM: _supremum(setting, mixed, counts, loss).error,
        BLIND: gap(blind, (stop_Q + resample_Q) * jax.nn.sigmoid(-optimum) / counts.tokens),
        FIRST: _blind_outcome(setting, optimum),
    }
    if setting.instance.shape.history == "none":
        accuracy = _accuracy_in_the_limit(setting, _certain(setting, setting.shown[:, None], counts.resample > 0))
        errors[ACCURACY] = gap(accuracy, _imitated_accuracy(setting))
    return {c.name: errors[c.claim] for c in CONTROLS if c.claim in errors}


THEOREM = Theorem(
    id="T9",
    title="Success-only imitation cannot teach pi_d",
    statement="on (q, right y, STOP) the optimum: pi_stop = 1 on the support, untouched elsewhere; blind: always STOP",
    provenance="[R]",
    assumptions=(
        "demonstrations stop at a right first answer; not all right answers need be shown; T >= 2, binary verifier",
        "saturated decider: one softmax a context; blind decider: one a prompt",
        "the optimum is a limit: no finite logits reach it",
    ),
    shapes=(
        Shape(rounds=2, length=3, vocabulary=2, prompts=2),
        Shape(rounds=4, length=1, vocabulary=4, history="none"),
        Shape(rounds=3, length=1, vocabulary=5),
        Shape(rounds=2, length=2, vocabulary=3, network=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=2, length=5, vocabulary=2, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "Only STOP is drawn where demonstrations go, so by T5 the gradient on a STOP logit is nu (1 - pi_stop)/N: "
        "positive at all finite logits, 0 elsewhere, and the decider's likelihood sum nu log pi_stop <= 0 reaches 0 "
        "only as pi_stop -> 1 there. If one logit serves all answers, it then stops at all of them."
    ),
    requires=(BINARY, FREE, RESAMPLES, MIXED),
    draw=draw_with_free_decider,
    prepare=prepare,
    check=check,
    control=control,
)

"""T10: what sampler and decider bring to final accuracy adds up in log-odds."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsjax.evaluation import accounting
from dsjax.evaluation.components import rates
from dsjax.process import Tables
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import BINARY, FREE, MEMORYLESS, MIXED
from proofs_check.theorem import Claim, Control, Measured, Theorem

LONG = 400  # rounds: rho <= 0.9 below, so rho^399 < 1e-18

CLAIMS = (
    Claim("accuracy of the enumerated process = acc_T(p, a, b), prompt by prompt", SUM),
    Claim("mean over prompts: J = E_q[acc_T(p_q, a_q, b_q)]", SUM),
    # 1 - rho >= ~0.01 at these logits: dividing by it costs a factor 100 on EPS.
    Claim("acc_T = p a (1 - rho^(T-1))/(1 - rho) + rho^(T-1) p", SUM),
    Claim("acc_T = acc + rho^(T-1) (p - acc), logit(acc) = logit(p) + log(a/b)", SUM),
    Claim("gain acc_T - p = p (1-p) (a-b) (1 + rho + .. + rho^(T-2))", SUM),
    Claim("mean rounds = 1 + rho + .. + rho^(T-1)", SUM),
    Claim("gain > 0 iff a > b, for T >= 2 and 0 < p < 1", SUM, strict=True),
    Claim("no gain at p = 0, p = 1, a = b or T = 1", SUM),
    # acc >= 0.005 and 1 - acc >= 0.005 for the draws below: logits lose a factor 200 on the rounding of acc.
    Claim("T -> inf: logit(acc) = logit(p) + log(a/b)", 200 * SUM),
    Claim("Shapley parts add up to the change of logit(acc_T)", 200 * SUM),
    Claim("T -> inf: Shapley parts are the changes of logit(p) and of log(a/b)", 200 * SUM),
)
(PROCESS, MEAN, CLOSED, DECAY, GAIN, ROUNDS, SIGN, NONE, LIMIT, ADDS, PARTS) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("forced stop of round T forgotten", CLOSED),
    Control("rho^T for rho^(T-1)", CLOSED),
    Control("the identity of the limit at finite T", DECAY),
    Control("identity at the average prompt (pooled p, a, b)", MEAN),
)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    p: jax.Array  # f[Q] P(right)
    a: jax.Array  # f[Q] P(STOP | right)
    b: jax.Array  # f[Q] P(STOP | wrong)
    accuracy: jax.Array  # f[Q] of the enumerated process
    tables: Tables


def prepare(instance: Instance) -> Setting:
    """p, a, b of each prompt from the policy's first round, and the exact accuracy of the process."""
    process = instance.process
    traj, logp = enumerated(instance)
    tables = process.tables(logp)
    answer, right = jnp.exp(tables.log_sample[0][:, 0]), process.reward_table
    # T = 1 has no decider; a and b must not matter there, so any will do.
    decides = instance.shape.rounds >= 2
    stop = jnp.exp(tables.log_stop[0][:, 0]) if decides else jax.random.uniform(instance.key, right.shape)

    def of_prompt(law_A: Any, right_A: Any, stop_A: Any) -> list[Any]:
        """All answers are the population, weighted by their probabilities."""
        return [rate(law_A[None])[0] for rate in rates(right_A[:, None], stop_A[:, None]).values()]

    p, a, b = jax.vmap(of_prompt)(answer, right, stop)
    return Setting(instance, p, a, b, process.values(tables, traj.reward).V[0][:, 0], tables)


def _rho(p: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return 1.0 - p * a - (1.0 - p) * b


def _moderate(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(p, a, b) f[2] each, before and after a change: far enough from 0 and 1 for the limit to be reached."""
    keys = jax.random.split(key, 3)
    ranges = ((0.05, 0.95), (0.1, 1.0), (0.1, 1.0))
    p, a, b = (jax.random.uniform(k, (2,), minval=lo, maxval=hi) for k, (lo, hi) in zip(keys, ranges, strict=True))
    return p, a, b


def _of(measure: str, weights_N: Any, *law: Any, rounds: int | None = None) -> Any:
    """What is reported as `measure` of N problems with these weights."""
    return accounting.measures(*law, rounds=rounds)[measure](weights_N[None])[0]


def _accuracy_of_draws(p: jax.Array, a: jax.Array, b: jax.Array, rounds: int) -> jax.Array:
    """f[Q]: accuracy given the samples of all rounds, averaged over what they may be: 2^T sequences a prompt."""
    right = jnp.asarray(list(product((True, False), repeat=rounds)))

    def of_prompt(p: jax.Array, a: jax.Array, b: jax.Array) -> Any:
        law = jnp.prod(jnp.where(right, p, 1.0 - p), axis=-1)
        return _of("accuracy", law, right, jnp.where(right, a, b))

    return jax.vmap(of_prompt)(p, a, b)


def _log_odds(p: jax.Array, a: jax.Array, b: jax.Array, rounds: int) -> jax.Array:
    """f[2, 2] by (sampler, decider), each 0 before the change and 1 after it; one prompt."""

    def of_pair(*law: jax.Array) -> Any:
        return _of("log_odds", jnp.ones(1), *(x[None] for x in law), rounds=rounds)

    return jax.vmap(jax.vmap(of_pair, (None, 0, 0)), (0, None, None))(p, a, b)


def check(setting: Setting) -> dict[str, Measured]:
    """Process against formula, formula against closed forms, limits, degenerate cases, Shapley."""
    instance, p, a, b, accuracy, _ = setting
    T, mu = instance.shape.rounds, instance.process.prompt_law
    acc, rho = accounting.final_accuracy(p, a, b, T), _rho(p, a, b)
    limit = jax.nn.sigmoid(sum(accounting.limit_parts(p, a, b)))
    geometric = sum((rho**i for i in range(T - 1)), jnp.zeros_like(rho))
    drawn, mean = _accuracy_of_draws(p, a, b, T), _of("accuracy", mu, p, a, b, rounds=T)
    measured = {
        PROCESS: Measured(jnp.maximum(gap(acc, accuracy), gap(drawn, accuracy))),
        MEAN: Measured(gap(mean, instance.process.expected_return(setting.tables))),
        CLOSED: Measured(gap(acc, p * a * (1 - rho ** (T - 1)) / (1 - rho) + rho ** (T - 1) * p)),
        DECAY: Measured(gap(acc, limit + rho ** (T - 1) * (p - limit))),
        GAIN: Measured(gap(acc - p, p * (1 - p) * (a - b) * geometric)),
        ROUNDS: Measured(gap(accounting.kept(p, a, b, T).rounds, geometric + rho ** (T - 1))),
    }
    if T >= 2:
        margin = jnp.min((acc - p) * jnp.sign(a - b))
        measured[SIGN] = Measured(shortfall(margin), margin)
    zero, one = jnp.zeros_like(p), jnp.ones_like(p)
    idle = [
        accounting.final_accuracy(q, x, y, n) - q
        for q, x, y, n in (
            (zero, a, b, T),
            (one, a, b, T),
            (p, a, a, T),
            (p, zero, zero, T),
            (p, a, b, 1),
        )
    ]
    measured[NONE] = Measured(jnp.max(jnp.abs(jnp.stack(idle))))

    p2, a2, b2 = _moderate(instance.key)
    finite, long = _log_odds(p2, a2, b2, T), _log_odds(p2, a2, b2, LONG)
    parts, far = (accounting.shapley(lambda s, d, x=x: x[s, d], (0, 0), (1, 1)) for x in (finite, long))
    stated = jnp.stack([jnp.log(p2) - jnp.log1p(-p2), jnp.log(a2) - jnp.log(b2)])  # f[2 parts, 2 policies]
    near = jnp.stack(accounting.limit_parts(p2, a2, b2))
    measured[LIMIT] = Measured(gap(jnp.diagonal(long), jnp.sum(stated, axis=0)))
    measured[ADDS] = Measured(gap(parts.sampler + parts.decider, finite[1, 1] - finite[0, 0]))
    of_limit = jnp.maximum(gap(jnp.stack(far), stated[:, 1] - stated[:, 0]), gap(near, stated))
    measured[PARTS] = Measured(of_limit)
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """A term forgotten, an exponent one off, a limit taken too early, and an average taken too early."""
    instance, p, a, b, accuracy, _ = setting
    T, mu = instance.shape.rounds, instance.process.prompt_law
    if not instance.shape.saturated:  # nothing keeps a network from being almost certain
        return {}
    acc, rho = accounting.final_accuracy(p, a, b, T), _rho(p, a, b)
    first = p * a * (1 - rho ** (T - 1)) / (1 - rho)
    errors = {
        CONTROLS[0].name: gap(acc, first),
        CONTROLS[1].name: gap(acc, p * a * (1 - rho**T) / (1 - rho) + rho**T * p),
        CONTROLS[2].name: gap(acc, jax.nn.sigmoid(sum(accounting.limit_parts(p, a, b)))),
    }
    if instance.shape.prompts >= 2 and T >= 2:
        p_mean = jnp.sum(mu * p)
        a_mean, b_mean = jnp.sum(mu * p * a) / p_mean, jnp.sum(mu * (1 - p) * b) / (1 - p_mean)
        errors[CONTROLS[3].name] = gap(accounting.final_accuracy(p_mean, a_mean, b_mean, T), jnp.sum(mu * accuracy))
    return errors


THEOREM = Theorem(
    id="T10",
    title="Accounting identity",
    statement="logit(acc) -> logit(p) + log(a/b); at every finite T >= 2, 0 < p < 1: gain over p iff a > b",
    provenance="[N]",
    assumptions=(
        "memoryless attempts at one prompt (history `none`), binary verifier, c = 0",
        "prompt by prompt: averages do not commute with the formula",
        "log-odds: 0 < p < 1, a > 0, b > 0",
    ),
    shapes=(
        Shape(rounds=1, length=3, vocabulary=4, prompts=2, history="none"),
        Shape(rounds=2, length=2, vocabulary=3, prompts=3, history="none"),
        Shape(rounds=3, length=1, vocabulary=5, prompts=2, history="none", shared=4),
        Shape(rounds=4, length=1, vocabulary=2, prompts=3, history="none", network=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=1, length=5, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=1, length=6, vocabulary=2, history="none"),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "An attempt ends right with probability p a, ends wrong with (1-p) b and goes on with rho; summing the "
        "geometric series and keeping the last attempt whatever it is gives acc_T. In the limit the odds are p a : "
        "(1-p) b."
    ),
    requires=(BINARY, FREE, MEMORYLESS, MIXED),
    prepare=prepare,
    check=check,
    control=control,
)

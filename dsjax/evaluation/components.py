"""Measures of the two components on fixed held-out problems.

Attempts are drawn at temperature 1 for all T rounds, as if every decision before had been RESAMPLE; decisions are then
averaged exactly, by their probabilities, instead of being drawn (Rao-Blackwell). That is exact with either history: a
round is only ever seen after RESAMPLE.

Without history all attempts at a problem have one law, and p, a, b and AUROC use all of them. With history `full` they
are about the first attempt and the decision on it, which every episode comes to.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import struct

from dsjax.errors import require
from dsjax.evaluation import accounting
from dsjax.policies.base import Params, Policy
from dsjax.policies.rollout import sample
from dsjax.statistics import Statistic, auroc, difference, estimate, ratio_of_sums, roc_curve
from dsjax.tasks import Problems, Task
from dsjax.trajectories import STOP

Estimate = dict[str, float | None]


class Pool(struct.PyTreeNode):
    """Answers of one sampler with their verdicts: N problems x T attempts."""

    prompt: Any  # i32[N, P]
    answers: Any  # i32[N, T, L]
    right: Any  # bool[N, T]


@partial(jax.jit, static_argnames=("task", "rounds"))
def draw_pool(
    policy: Policy, params: Params, task: Task, problems: Problems, key: jax.Array, rounds: int
) -> tuple[Pool, jax.Array]:
    """A sampler's attempts at the problems, and the same policy's log pi_d(STOP) for each, f[N, T] nats."""
    drawn = sample(policy, params, problems.prompt, key, rounds=rounds)
    right = task.score(drawn.answers, problems.answer[:, None, :]) > 0.5
    return Pool(problems.prompt, drawn.answers, right), drawn.log_decision[..., STOP]


@jax.jit
def judge(policy: Policy, params: Params, pool: Pool) -> jax.Array:
    """log pi_d(STOP), f[N, T] nats, of this policy's decider for another sampler's answers."""
    _, log_decision = policy.log_dists(params, pool.prompt, pool.answers)
    return log_decision[..., STOP]


def expected_accuracy(right_NxT: np.ndarray, stop_NxT: np.ndarray) -> np.ndarray:
    """f[N]: probability that the kept answer is right, given the attempts; the last round is kept by force."""
    return _kept(right_NxT.astype(float), stop_NxT)


def expected_rounds(stop_NxT: np.ndarray) -> np.ndarray:
    """f[N]: E[tau] given the attempts."""
    return _kept(np.broadcast_to(np.arange(1.0, stop_NxT.shape[1] + 1), stop_NxT.shape), stop_NxT)


def _kept(value_NxT: np.ndarray, stop_NxT: np.ndarray) -> np.ndarray:
    stop = stop_NxT.copy()
    stop[:, -1] = 1.0
    alive = np.cumprod(np.concatenate([np.ones_like(stop[:, :1]), 1.0 - stop[:, :-1]], axis=1), axis=1)
    return np.sum(alive * stop * value_NxT, axis=1)


def attempts_that_count(history: str, *arrays_NxT: np.ndarray) -> list[np.ndarray]:
    """The attempts that p, a, b and AUROC are about: all, or with history the first."""
    return [x if history == "none" else x[:, :1] for x in arrays_NxT]


def component_statistics(right: np.ndarray, stop: np.ndarray, history: str = "none") -> dict[str, Any]:
    """Statistics (functions of problem weights, see `statistics`) of one sampler with one decider.

    p = P(right), a = P(STOP | right), b = P(STOP | wrong), AUROC of the STOP probability, all over
    `attempts_that_count`; Youden's index a - b; final accuracy at T, gain = accuracy - p, mean rounds.
    """
    ones = np.ones(len(right))
    counted, decided = attempts_that_count(history, right, stop)
    ok = counted.astype(float)
    p = ratio_of_sums(ok.sum(1), ones * ok.shape[1])
    accuracy = ratio_of_sums(expected_accuracy(right, stop), ones)
    a = ratio_of_sums((ok * decided).sum(1), ok.sum(1))
    b = ratio_of_sums(((1 - ok) * decided).sum(1), (1 - ok).sum(1))
    return {
        "p": p,
        "a": a,
        "b": b,
        "youden": difference(a, b),
        "auroc": auroc(decided, counted),
        "accuracy": accuracy,
        "gain": difference(accuracy, p),
        "rounds": ratio_of_sums(expected_rounds(stop), ones),
    }


def component_estimates(
    right: np.ndarray, log_stop: np.ndarray, resamples: int, seed: int = 0, history: str = "none"
) -> dict[str, Any]:
    """Each statistic of `component_statistics` with its interval, and the decider's ROC curve."""
    stop = np.exp(log_stop.astype(float))
    statistics = component_statistics(right, stop, history)
    out: dict[str, Any] = {name: estimate(s, len(right), resamples, seed) for name, s in statistics.items()}
    counted, decided = attempts_that_count(history, right, stop)
    out["roc"] = roc_curve(decided, counted)
    return out


def quick_measures(right: np.ndarray, log_stop: np.ndarray, history: str = "none") -> dict[str, float | None]:
    """Point values only, for training curves."""
    stop = np.exp(log_stop.astype(float))
    one = np.ones((1, len(right)))
    values = {name: s(one)[0] for name, s in component_statistics(right, stop, history).items()}
    return {name: float(v) if np.isfinite(v) else None for name, v in values.items()}


def cross_swap(
    pools: dict[str, Pool], verdicts: dict[tuple[str, str], np.ndarray], resamples: int, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Final accuracy of every sampler (rows) with every decider (columns).

    Args:
      pools: by sampler.
      verdicts: log pi_d(STOP) f[N, T] by (sampler, decider).
      resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    matrix: dict[str, dict[str, Estimate]] = {}
    for (sampler, decider), log_stop in verdicts.items():
        kept = expected_accuracy(np.asarray(pools[sampler].right), np.exp(log_stop.astype(float)))
        cell = estimate(ratio_of_sums(kept, np.ones(len(kept))), len(kept), resamples, seed)
        matrix.setdefault(sampler, {})[decider] = cell
    return matrix


def accounting_statistics(
    right: Mapping[str, np.ndarray], verdicts: Mapping[tuple[str, str], np.ndarray], arm: str, base: str
) -> dict[str, dict[str, Statistic]]:
    """What sampler and decider each bring to the difference arm - base, as statistics of problem weights.

    `log_odds` and `accuracy`: the Shapley parts `sampler` and `decider` of swapping the two components one at a time,
    on final accuracies, and their `total`.

    Args:
      right: verifier's verdicts bool[N, T] by sampler.
      verdicts: log pi_d(STOP) f[N, T] by (sampler, decider).
      arm: the model with the gain.
      base: the model that it is a gain over.
    """
    kept = {}
    for sampler, decider in ((s, d) for s in (base, arm) for d in (base, arm)):
        stop = np.exp(verdicts[sampler, decider].astype(float))
        kept[sampler, decider] = [expected_accuracy(ok, stop) for ok in (right[sampler], ~right[sampler])]
    n = len(right[base])

    def accuracy(weights: np.ndarray, sampler: str, decider: str) -> np.ndarray:
        return ratio_of_sums(kept[sampler, decider][0], np.ones(n))(weights)

    def log_odds(weights: np.ndarray, sampler: str, decider: str) -> np.ndarray:
        # From both sums, not from the accuracy: 1 - accuracy would be rounding dust where nothing wrong is kept.
        good, bad = kept[sampler, decider]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(weights @ good) - np.log(weights @ bad)

    def split(part: str, measure: Any) -> Statistic:
        def statistic(weights: np.ndarray) -> np.ndarray:
            def value(sampler: str, decider: str) -> np.ndarray:
                return measure(weights, sampler, decider)

            with np.errstate(invalid="ignore"):
                return getattr(accounting.shapley(value, (base, base), (arm, arm)), part)

        return statistic

    def total(measure: Any) -> Statistic:
        def statistic(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return measure(weights, arm, arm) - measure(weights, base, base)

        return statistic

    return {
        name: {**{part: split(part, measure) for part in ("sampler", "decider")}, "total": total(measure)}
        for name, measure in (("log_odds", log_odds), ("accuracy", accuracy))
    }


def log_odds_statistic(right: np.ndarray, log_stop: np.ndarray) -> Statistic:
    """Log-odds of the final accuracy of one sampler with one decider, nats."""
    stop = np.exp(log_stop.astype(float))
    good, bad = (expected_accuracy(ok, stop) for ok in (right, ~right))

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(weights @ good) - np.log(weights @ bad)

    return statistic


def gain_accounting(
    pools: dict[str, Pool],
    verdicts: dict[tuple[str, str], np.ndarray],
    arm: str,
    base: str,
    resamples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """`accounting_statistics` with intervals, for attempts without history.

    For comparison the T -> inf identity logit(p) + log(a/b) from pooled p, a, b, whose residual against the measured
    log-odds holds finite T and the heterogeneity of prompts.
    """
    right = {name: np.asarray(pools[name].right) for name in (base, arm)}
    n = len(right[base])
    one = np.ones((1, n))
    parts = accounting_statistics(right, verdicts, arm, base)

    def interval_of(statistic: Statistic) -> Estimate:
        return estimate(statistic, n, resamples, seed)

    def point(name: str) -> float | None:
        value = float(log_odds_statistic(right[name], verdicts[name, name])(one)[0])
        return value if np.isfinite(value) else None

    base_terms, arm_terms = (
        identity_terms(component_statistics(right[name], np.exp(verdicts[name, name].astype(float))))(one)[:, 0]
        for name in (base, arm)
    )
    identity_ok = bool(np.isfinite([*base_terms, *arm_terms]).all())
    return {
        "base_log_odds": point(base),
        "arm_log_odds": point(arm),
        **{name: {part: interval_of(parts[name][part]) for part in ("sampler", "decider")} for name in parts},
        "total_accuracy": interval_of(parts["accuracy"]["total"]),
        "limit_identity": {
            "sampler": float(arm_terms[0] - base_terms[0]),
            "decider": float(arm_terms[1] - base_terms[1]),
        }
        if identity_ok
        else None,
    }


def identity_terms(statistics: Mapping[str, Statistic]) -> Statistic:
    """logit(p) and log(a/b) of `component_statistics`, the two terms of T10's limit, f[2, R]."""

    def terms(weights: np.ndarray) -> np.ndarray:
        p, a, b = (statistics[k](weights) for k in ("p", "a", "b"))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([np.log(p) - np.log1p(-p), np.log(a / b)])

    return terms


def evaluation_sets(task: Task, splits: tuple[str, ...], problems: int) -> dict[str, Problems]:
    """The fixed problems of each split."""
    for split in splits:
        require(split in task.splits, "split", split, task.splits)
    return {split: task.evaluation_problems(split, problems) for split in splits}

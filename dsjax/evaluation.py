"""Measures of the two components on fixed held-out problems.

Attempts are drawn at temperature 1 for all T rounds; decisions are then averaged exactly, by their probabilities,
instead of being drawn (Rao-Blackwell). This needs history `none`, where attempts do not depend on decisions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import struct

from dsjax import accounting
from dsjax.errors import require
from dsjax.policies.base import Params, Policy
from dsjax.rollout import sample_attempts
from dsjax.statistics import auroc, difference, estimate, ratio_of_sums, roc_curve
from dsjax.tasks import AdditionTask, Problems
from dsjax.trajectories import STOP

Estimate = dict[str, float | None]


class Pool(struct.PyTreeNode):
    """Answers of one sampler with their verdicts: N problems x T attempts."""

    prompt: Any  # i32[N, P]
    answers: Any  # i32[N, T, L]
    right: Any  # bool[N, T]


@partial(jax.jit, static_argnames=("task", "rounds"))
def draw_pool(
    policy: Policy, params: Params, task: AdditionTask, problems: Problems, key: jax.Array, rounds: int
) -> tuple[Pool, jax.Array]:
    """A sampler's attempts at the problems, and the same policy's log pi_d(STOP) for each, f[N, T] nats."""
    drawn = sample_attempts(policy, params, problems.prompt, key, rounds=rounds)
    right = task.score(drawn.answers, problems.answer[:, None, :]) > 0.5
    return Pool(problems.prompt, drawn.answers, right), drawn.log_decide[..., STOP]


@jax.jit
def judge(policy: Policy, params: Params, pool: Pool) -> jax.Array:
    """log pi_d(STOP), f[N, T] nats, of this policy's decider for another sampler's answers."""
    _, log_decide = policy.log_dists(params, pool.prompt, pool.answers)
    return log_decide[..., STOP]


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


def component_statistics(right: np.ndarray, stop: np.ndarray) -> dict[str, Any]:
    """Statistics (functions of problem weights, see `statistics`) of one sampler with one decider.

    p = P(right), a = P(STOP | right), b = P(STOP | wrong) over all attempts, AUROC of the STOP probability, final
    accuracy at T, gain = accuracy - p, mean rounds.
    """
    n, T = right.shape
    ok = right.astype(float)
    ones = np.ones(n)
    p = ratio_of_sums(ok.sum(1), ones * T)
    accuracy = ratio_of_sums(expected_accuracy(right, stop), ones)
    return {
        "p": p,
        "a": ratio_of_sums((ok * stop).sum(1), ok.sum(1)),
        "b": ratio_of_sums(((1 - ok) * stop).sum(1), (1 - ok).sum(1)),
        "auroc": auroc(stop, right),
        "accuracy": accuracy,
        "gain": difference(accuracy, p),
        "rounds": ratio_of_sums(expected_rounds(stop), ones),
    }


def component_estimates(right: np.ndarray, log_stop: np.ndarray, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Each statistic of `component_statistics` with its interval, and the decider's ROC curve."""
    stop = np.exp(log_stop.astype(float))
    out: dict[str, Any] = {
        name: estimate(s, len(right), resamples, seed) for name, s in component_statistics(right, stop).items()
    }
    out["roc"] = roc_curve(stop, right)
    return out


def quick_measures(right: np.ndarray, log_stop: np.ndarray) -> dict[str, float | None]:
    """Point values only, for training curves."""
    stop = np.exp(log_stop.astype(float))
    one = np.ones((1, len(right)))
    values = {name: s(one)[0] for name, s in component_statistics(right, stop).items()}
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


def gain_accounting(
    pools: dict[str, Pool],
    verdicts: dict[tuple[str, str], np.ndarray],
    arm: str,
    base: str,
    resamples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """What sampler and decider each bring to an arm's gain over base: log-odds and accuracy, with intervals.

    Shapley over swapping the two components one at a time, on measured final accuracies; for comparison the T -> inf
    identity logit(p) + log(a/b) from pooled p, a, b, whose residual against the measured log-odds holds finite T and
    the heterogeneity of prompts.
    """
    n = len(pools[base].right)
    kept_right, kept_wrong = {}, {}
    for key in ((s, d) for s in (base, arm) for d in (base, arm)):
        right, stop = np.asarray(pools[key[0]].right), np.exp(verdicts[key].astype(float))
        kept_right[key], kept_wrong[key] = expected_accuracy(right, stop), expected_accuracy(~right, stop)

    def accuracy(weights: np.ndarray, sampler: str, decider: str) -> np.ndarray:
        return ratio_of_sums(kept_right[sampler, decider], np.ones(n))(weights)

    def log_odds(weights: np.ndarray, sampler: str, decider: str) -> np.ndarray:
        # From both sums, not from the accuracy: 1 - accuracy would be rounding dust where nothing wrong is kept.
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(weights @ kept_right[sampler, decider]) - np.log(weights @ kept_wrong[sampler, decider])

    def split(part: str, measure: Any) -> Any:
        def statistic(weights: np.ndarray) -> np.ndarray:
            def value(sampler: str, decider: str) -> np.ndarray:
                return measure(weights, sampler, decider)

            with np.errstate(invalid="ignore"):
                return getattr(accounting.shapley(value, (base, base), (arm, arm)), part)

        return statistic

    def identity(weights: np.ndarray, name: str) -> np.ndarray:
        s = component_statistics(np.asarray(pools[name].right), np.exp(verdicts[name, name].astype(float)))
        p, a, b = (s[k](weights) for k in ("p", "a", "b"))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([np.log(p) - np.log1p(-p), np.log(a / b)])

    def point(f: Any) -> float | None:
        value = float(f(np.ones((1, n)))[0])
        return value if np.isfinite(value) else None

    base_terms, arm_terms = (identity(np.ones((1, n)), name)[:, 0] for name in (base, arm))
    identity_ok = bool(np.isfinite([*base_terms, *arm_terms]).all())
    return {
        "base_log_odds": point(lambda w: log_odds(w, base, base)),
        "arm_log_odds": point(lambda w: log_odds(w, arm, arm)),
        "log_odds": {part: estimate(split(part, log_odds), n, resamples, seed) for part in ("sampler", "decider")},
        "accuracy": {part: estimate(split(part, accuracy), n, resamples, seed) for part in ("sampler", "decider")},
        "total_accuracy": estimate(lambda w: accuracy(w, arm, arm) - accuracy(w, base, base), n, resamples, seed),
        "limit_identity": {
            "sampler": float(arm_terms[0] - base_terms[0]),
            "decider": float(arm_terms[1] - base_terms[1]),
        }
        if identity_ok
        else None,
    }


def evaluation_sets(task: AdditionTask, splits: tuple[str, ...], problems: int) -> dict[str, Problems]:
    """The fixed problems of each split."""
    for split in splits:
        require(split in task.splits, "split", split, task.splits)
    return {split: task.evaluation_problems(split, problems) for split in splits}

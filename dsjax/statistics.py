"""Estimates with intervals: cluster bootstrap over problems, and a weighted AUROC.

Attempts at one problem are not independent, so problems are resampled, not attempts. NumPy, on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def bootstrap_weights(problems: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """f[R, N]: how often each problem is drawn in each resample. Same seed, same weights: comparisons are paired."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(problems, np.full(problems, 1.0 / problems), size=resamples).astype(float)


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of the samples that are finite; (nan, nan) if none is."""
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(
    statistic: Callable[[np.ndarray], np.ndarray], problems: int, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float | None]:
    """Point value and interval of a statistic that is a function of problem weights.

    Args:
      statistic: maps weights f[R, N] to values f[R].
      problems: N.
      resamples: R.
      seed: of the resampling.

    Returns:
      {"value", "low", "high"}; None where it does not exist (no right answer, say).
    """
    value = statistic(np.ones((1, problems)))[0]
    low, high = interval(statistic(bootstrap_weights(problems, resamples, seed)))
    return {"value": _or_none(value), "low": _or_none(low), "high": _or_none(high)}


def _or_none(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def ratio_of_sums(numerator_N: np.ndarray, denominator_N: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Statistic sum_i w_i n_i / sum_i w_i d_i; NaN where the denominator is 0."""

    def statistic(weights_RxN: np.ndarray) -> np.ndarray:
        top, bottom = weights_RxN @ numerator_N, weights_RxN @ denominator_N
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)

    return statistic


def difference(
    a: Callable[[np.ndarray], np.ndarray], b: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Statistic a - b on the same resample: a paired comparison."""
    return lambda weights: a(weights) - b(weights)


def auroc(score_NxT: np.ndarray, right_NxT: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Statistic P(score of a right attempt > score of a wrong one) + P(equal)/2; NaN if a class is empty.

    NaN too if a score is NaN: it has no rank.

    Args:
      score_NxT: the decider's score of each attempt at each problem.
      right_NxT: bool, the verifier's verdict.
    """
    problem = np.repeat(np.arange(score_NxT.shape[0]), score_NxT.shape[1])
    score, right = score_NxT.ravel(), right_NxT.ravel().astype(float)
    order = np.argsort(score, kind="stable")
    score, right, problem = score[order], right[order], problem[order]
    starts = np.flatnonzero(np.r_[True, score[1:] > score[:-1]])
    ranked = not np.isnan(score).any()

    def statistic(weights_RxN: np.ndarray) -> np.ndarray:
        out = np.empty(len(weights_RxN))
        for r, w in enumerate(weights_RxN[:, problem]):
            positive = np.add.reduceat(w * right, starts)
            negative = np.add.reduceat(w * (1.0 - right), starts)
            below = np.cumsum(negative) - negative
            pairs = positive.sum() * negative.sum()
            out[r] = np.sum(positive * (below + 0.5 * negative)) / pairs if ranked and pairs > 0 else np.nan
        return out

    return statistic


def roc_curve(score: np.ndarray, right: np.ndarray, points: int = 101) -> Mapping[str, list[float]] | None:
    """P(score > s | wrong) and P(score > s | right) at `points` thresholds, for a figure; None if a class is empty."""
    thresholds = np.quantile(score, np.linspace(0, 1, points))
    accept = score.ravel()[None, :] > thresholds[:, None]
    right = right.ravel().astype(bool)
    if right.all() or not right.any():
        return None

    def rate(mask: np.ndarray) -> list[float]:
        return [1.0, *accept[:, mask].mean(axis=1).tolist()]

    return {"wrong_accepted": rate(~right), "right_accepted": rate(right)}

"""Estimates with intervals: cluster bootstrap over problems, and a weighted AUROC.

Attempts at one problem are not independent, so problems are resampled, not attempts. NumPy, on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsjax.numerics import divide

RESAMPLES = 2000
LEVEL = 0.95

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of N problems f[R, N] -> values f[R]


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


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN stands for what does not exist (no right answer, one unit, ..).

    `f"{e:.3f}"` is `0.123 [0.101, 0.152]`, `f"{e:+.1%}"` is `+12.3% [+10.1%, +15.2%]`, and `-` where there is no value.

    Attributes:
      value: the point value.
      low: lower end of the bootstrap's 95 % interval.
      high: upper end.
      t_low: lower end of Student's interval over seeds.
      t_high: upper end.
      p: two-sided p of mean 0 over seeds.
      seeds: the value of each seed; empty where there is one run only.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    t_low: float = math.nan
    t_high: float = math.nan
    p: float = math.nan
    seeds: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return math.isfinite(self.value)

    def __format__(self, spec: str) -> str:
        if not self:
            return "-"
        ends = [format(x, spec) for x in (self.low, self.high) if math.isfinite(x)]
        return format(self.value, spec) + (f" [{', '.join(ends)}]" if len(ends) == 2 else "")

    def to_json(self) -> dict[str, Any]:
        """{"value", "low", "high"} and, over several seeds, {"t_low", "t_high", "p", "seeds"}; None for NaN."""
        names = ("value", "low", "high", *(("t_low", "t_high", "p") if self.seeds else ()))
        out: dict[str, Any] = {name: _or_none(getattr(self, name)) for name in names}
        return {**out, "seeds": [_or_none(x) for x in self.seeds]} if self.seeds else out

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Estimate:
        """What `to_json` wrote; nothing at all is an estimate that does not exist."""
        numbers = {k: math.nan if v is None else v for k, v in (data or {"value": None}).items() if k != "seeds"}
        return cls(**numbers, seeds=tuple(math.nan if x is None else x for x in (data or {}).get("seeds", ())))


def estimate(statistic: Statistic, problems: int, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, float | None]:
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


# What values are possible, for `Replicated.within`.
ANY, PROBABILITY, DIFFERENCE = (-math.inf, math.inf), (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True)
class Replicated:
    """One measure in S trainings that are all measured on the same N problems: its values, and resampled over problems.

    Differences of two are paired: by training, and by resample if both were made with the same weights.
    """

    values: np.ndarray  # f[S]
    samples: np.ndarray  # f[S, R]
    within: tuple[float, float] = ANY  # what values are possible; intervals are cut to it

    @classmethod
    def of(
        cls,
        statistics: Sequence[Statistic],
        weights_RxN: np.ndarray,
        within: tuple[float, float] = ANY,
    ) -> Replicated:
        """Of a statistic of each training, with the weights of `bootstrap_weights`."""
        one = np.ones((1, weights_RxN.shape[1]))
        values = np.array([float(s(one)[0]) for s in statistics])
        return cls(values, np.stack([s(weights_RxN) for s in statistics]), within)

    def __sub__(self, other: Replicated) -> Replicated:
        within = (self.within[0] - other.within[1], self.within[1] - other.within[0])
        return Replicated(self.values - other.values, self.samples - other.samples, within)

    def estimate(self, seed: int = 0) -> dict[str, Any]:
        """The mean over trainings with an interval over trainings and problems.

        The bootstrap draws trainings and, crossed with them, problems. Of S trainings it sees (S - 1)/S of the variance
        between them, and its tails are a normal law's: its deviations between trainings are therefore multiplied by
        t sqrt(S/(S - 1)) / z, with the quantiles of Student's law of S - 1 degrees of freedom and of the normal law
        (after Hesterberg (2015), The American Statistician 69: the narrowness bias of a bootstrap of few). Student's
        interval of the trainings' values alone is given too. Both are cut to what is possible, which loses no coverage.

        Returns:
          {"value", "low", "high", "t_low", "t_high", "p", "seeds": [value a training]}; p is of `t_test`. None where a
          number does not exist.
        """
        S, R = self.samples.shape
        drawn_SxR = np.random.default_rng(seed + 1).multinomial(S, np.full(S, 1.0 / S), size=R).T
        with np.errstate(invalid="ignore"):
            mean = self.samples.mean(axis=0)
            between = (self.samples * (drawn_SxR - 1)).mean(axis=0)
        # Without a value there is no interval.
        known = np.isfinite(self.values).all()
        low, high = interval(mean + widening(S) * between) if known else (math.nan, math.nan)
        t_low, t_high, p = t_test(self.values)
        ends = np.clip([low, high, t_low, t_high], *self.within)
        numbers = {
            "value": self.values.mean(),
            **dict(zip(("low", "high", "t_low", "t_high"), ends, strict=True)),
            "p": p,
        }
        return {**{k: _or_none(v) for k, v in numbers.items()}, "seeds": [_or_none(v) for v in self.values]}


def widening(trainings: int, level: float = LEVEL) -> float:
    """Factor t sqrt(S/(S - 1)) / z on a bootstrap's deviations between S trainings; 0 for one, which has none."""
    from scipy.special import ndtri, stdtrit  # late, as in `t_test`

    if trainings < 2:
        return 0.0
    tail = (1 + level) / 2
    return float(stdtrit(trainings - 1, tail) / ndtri(tail)) * math.sqrt(trainings / (trainings - 1))


def t_test(values: np.ndarray, level: float = LEVEL) -> tuple[float, float, float]:
    """Student's interval for the mean and the two-sided p of mean 0; NaN for fewer than two values or a NaN."""
    from scipy.special import stdtr, stdtrit  # late: it loads a BLAS, whose threads `proofs_check.runner` limits first

    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan"), float("nan")
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    degrees = len(values) - 1
    reach = float(stdtrit(degrees, (1 + level) / 2)) * error
    p = 2 * float(stdtr(degrees, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return mean - reach, mean + reach, p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values; rejecting those <= alpha errs anywhere with probability <= alpha. NaN stays NaN.

    Valid whatever the dependence between the tests. Holm (1979).
    """
    m = len(p_values)
    adjusted, running = [math.nan] * m, 0.0
    order = sorted((i for i in range(m) if not math.isnan(p_values[i])), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        running = max(running, (m - rank) * p_values[i])
        adjusted[i] = min(1.0, running)
    return adjusted


def _or_none(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def ratio_of_sums(numerator_N: np.ndarray, denominator_N: np.ndarray) -> Statistic:
    """Statistic sum_i w_i n_i / sum_i w_i d_i; NaN where the denominator is 0."""

    def statistic(weights_RxN: np.ndarray) -> np.ndarray:
        return divide(weights_RxN @ numerator_N, weights_RxN @ denominator_N, np.nan)

    return statistic


def difference(a: Statistic, b: Statistic) -> Statistic:
    """Statistic a - b on the same resample: a paired comparison."""
    return lambda weights: a(weights) - b(weights)


def auroc(score_NxT: np.ndarray, right_NxT: np.ndarray) -> Statistic:
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

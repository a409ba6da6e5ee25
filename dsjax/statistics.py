"""Estimates with intervals: one bootstrap, over problems and crossed with seeds; tests over seeds; a weighted AUROC.

Samples of one problem are not independent, so problems are resampled, not samples. NumPy, on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from dsjax.config import require_int, require_seed
from dsjax.io import require_memory
from dsjax.numerics import divide

RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 2**22  # weights in memory at a time

Key = TypeVar("Key", bound=Hashable)
Statistic = Callable[[np.ndarray], np.ndarray]  # weights of N units f[R, N] -> values f[R]
Range = tuple[float, float]
ANY, PROBABILITY, DIFFERENCE = (-math.inf, math.inf), (0.0, 1.0), (-1.0, 1.0)  # what values are possible


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of the samples that are finite; (nan, nan) if none is."""
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN stands for what does not exist (no correct answer, ..).

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


@dataclass(frozen=True)
class Resampled:
    """One measure of S seeds on the same N units: its values, and the same resampled over the units.

    Sums and differences of two are paired: by seed, and by resample if both come from the same `Bootstrap`.
    """

    values: np.ndarray  # f[S]
    samples: np.ndarray  # f[S, R]
    within: Range = ANY  # what values are possible; intervals are cut to it

    @classmethod
    def of_seeds(cls, values: Any, within: Range = ANY, resamples: int = RESAMPLES) -> Resampled:
        """Of a measure without units: every resample has the seed's own value."""
        values = np.asarray(values, float)
        return cls(values, np.repeat(values[:, None], resamples, axis=1), within)

    def __add__(self, other: Resampled) -> Resampled:
        low, high = self.within[0] + other.within[0], self.within[1] + other.within[1]
        with np.errstate(invalid="ignore"):  # inf - inf is NaN: it does not exist
            return Resampled(self.values + other.values, self.samples + other.samples, (low, high))

    def __rmul__(self, factor: float) -> Resampled:
        low, high = sorted(factor * end for end in self.within)
        return Resampled(factor * self.values, factor * self.samples, (low, high))

    def __sub__(self, other: Resampled) -> Resampled:
        return self + -1.0 * other

    def estimate(self, seed: int = 0) -> Estimate:
        """The mean over seeds with an interval over seeds and units.

        The bootstrap draws seeds and, crossed with them, units. Of S seeds it sees (S - 1)/S of the variance between
        them, and its tails are a normal law's: its deviations between seeds are therefore multiplied by
        t sqrt(S/(S - 1)) / z, with the quantiles of Student's law of S - 1 degrees of freedom and of the normal law
        (after Hesterberg (2015), The American Statistician 69: the narrowness bias of a bootstrap of few). Student's
        interval of the seeds' values alone is given too, with the p of `t_test`. Both are cut to what is possible,
        which loses no coverage. Of one seed the interval is over units alone; without a value there is none.
        """
        S, R = self.samples.shape
        drawn_SxR = np.random.default_rng(seed + 1).multinomial(S, np.full(S, 1.0 / S), size=R).T
        with np.errstate(invalid="ignore"):
            mean = self.samples.mean(axis=0)
            between = (self.samples * (drawn_SxR - 1)).mean(axis=0)
            known = np.isfinite(self.values).all()
            low, high = interval(mean + widening(S) * between) if known else (math.nan, math.nan)
            value = float(self.values.mean())
        t_low, t_high, p = t_test(self.values)
        low, high, t_low, t_high = (float(np.clip(end, *self.within)) for end in (low, high, t_low, t_high))
        return Estimate(value, low, high, t_low, t_high, p, tuple(map(float, self.values)))


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of N units (problems, groups), the same for every statistic: what is compared is paired.

    Attributes:
      units: N.
      resamples: R; with 0 there are values, and no intervals.
      seed: of the resampling.
    """

    units: int
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        require_int("resamples", self.resamples, 0)
        require_seed("seed", self.seed)
        require_memory("resamples", self.resamples, 8.0 * self.resamples)

    def weights(self) -> Iterator[np.ndarray]:
        """f[R, N], in chunks of rows: how often each unit is drawn in each resample. Chunks do not change the draws."""
        yield from self._kept if self.resamples * self.units <= CHUNK else self._drawn()

    @cached_property
    def _kept(self) -> list[np.ndarray]:
        return list(self._drawn())

    def _drawn(self) -> Iterator[np.ndarray]:
        rng, rows = np.random.default_rng(self.seed), max(1, CHUNK // self.units)
        for first in range(0, self.resamples, rows):
            size = min(rows, self.resamples - first)
            yield rng.multinomial(self.units, np.full(self.units, 1.0 / self.units), size=size).astype(float)

    def _of(self, statistics: Sequence[Statistic], within: Range) -> Resampled:
        one = np.ones((1, self.units))
        require_memory("resamples", self.resamples, 8.0 * self.resamples * len(statistics))
        samples = [[f(weights) for f in statistics] for weights in self.weights()]
        nothing = np.empty((len(statistics), 0))
        return Resampled(
            np.array([float(f(one)[0]) for f in statistics]), np.concatenate([nothing, *samples], axis=1), within
        )

    def of(self, *statistics: Statistic, within: Range = ANY) -> Resampled:
        """One measure, given as the statistic of each seed."""
        return self._of(statistics, within)

    def estimates(self, statistics: Mapping[Key, Statistic]) -> dict[Key, Estimate]:
        """Several measures of one run, each with its interval over units."""
        found = self._of(list(statistics.values()), ANY)
        return {
            name: of_resamples(value, samples)
            for name, value, samples in zip(statistics, found.values, found.samples, strict=True)
        }

    def sums(self, columns_NxK: np.ndarray) -> np.ndarray:
        """f[1 + R, K]: the sum of each column over the units as they are, then over each resample.

        For many statistics that are functions of sums: the resamples are drawn once, and a chunk of them is one
        product of matrices.
        """
        return np.concatenate([columns_NxK.sum(0, keepdims=True), *(w @ columns_NxK for w in self.weights())])


def of_resamples(value: float, samples_R: np.ndarray) -> Estimate:
    """Value and percentile interval of a number of one run."""
    e = Resampled(np.array([value]), samples_R[None]).estimate()
    return Estimate(e.value, e.low, e.high)


def estimate(statistic: Statistic, units: int, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Value and interval of one statistic of one run; see `Bootstrap`."""
    return Bootstrap(units, resamples, seed).estimates({"": statistic})[""]


def widening(seeds: int, level: float = LEVEL) -> float:
    """Factor t sqrt(S/(S - 1)) / z on a bootstrap's deviations between S seeds; 0 for one, which has none."""
    if seeds < 2:
        return 0.0
    # Late: it is slow to load and starts the threads of a BLAS of its own, which only intervals over seeds need.
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    return float(stdtrit(seeds - 1, tail) / ndtri(tail)) * math.sqrt(seeds / (seeds - 1))


def t_test(values: np.ndarray, level: float = LEVEL) -> tuple[float, float, float]:
    """Student's interval for the mean and the two-sided p of mean 0; NaN for fewer than two values or a NaN."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan, math.nan
    from scipy.special import stdtr, stdtrit  # late, as in `widening`

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


def mean(values_N: np.ndarray) -> Statistic:
    """Statistic sum_i w_i x_i / sum_i w_i."""
    return ratio_of_sums(values_N, values_N.__array_namespace__().ones_like(values_N))


def difference(a: Statistic, b: Statistic) -> Statistic:
    """Statistic a - b on the same resample: a paired comparison."""
    return lambda weights: a(weights) - b(weights)


def auroc(score_NxT: np.ndarray, right_NxT: np.ndarray) -> Statistic:
    """Statistic P(score of a correct sample > score of a wrong one) + P(equal)/2; NaN if a class is empty.

    NaN too if a score is NaN: it has no rank.

    Args:
      score_NxT: the decider's score of each sample of each problem.
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

"""Is the mean of independent vectors a stated vector? Hotelling's test, its power, and Holm's correction.

Everything is float64 NumPy on the host; only the incomplete beta function comes from JAX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np
from jax.scipy.special import betainc

from dsjax.errors import require
from dsjax.numerics import exact
from proofs_check.numerics import SUM

# Poisson terms of a non-central law. The weights of `detectable` have mean <= SEARCH_END / 2 = 250 and standard
# deviation <= 16: what is cut off beyond 640 = mean + 24 deviations is below 1e-60.
TERMS = 640
SEARCH_END = 500.0

# Relative variance below which a direction counts as constant. Rounding leaves about P x EPS = 1e-14 there; directions
# that do vary have eigenvalues of a correlation matrix of a few dozen coordinates, 1e-4 at the least.
RANK = 1e-10

_betainc = jax.jit(betainc)


def _regularised_beta(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """I_x(a, b) in float64, one compiled program a shape."""
    with exact():
        return np.asarray(_betainc(np.asarray(a, float), np.asarray(b, float), np.asarray(x, float)))


def f_tail(statistic: np.ndarray, degrees: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """P(F > statistic) for F with (degrees, residual) degrees of freedom; NaN for NaN."""
    return _regularised_beta(residual / 2, degrees / 2, residual / (residual + degrees * statistic))


def f_critical(level: float, degrees: int, residual: int) -> float:
    """The statistic with P(F > statistic) = level, by bisection."""
    low, high = 0.0, 1.0
    while _tail(high, degrees, residual) > level:
        high *= 2
    for _ in range(60):  # interval of width <= high 2^-60: below rounding
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(middle, degrees, residual) > level else (low, middle)
    return high


def _tail(statistic: float, degrees: int, residual: int) -> float:
    return float(f_tail(np.asarray(statistic), np.asarray(degrees), np.asarray(residual)))


def detectable(level: float, degrees: int, residual: int, power: float = 0.9) -> float:
    """Non-centrality at which the F test of that level rejects with that probability.

    A non-central F is a Poisson(lambda / 2) mixture: F = (residual / degrees) X / (1 - X), X ~ Beta(degrees / 2 + j,
    residual / 2).
    """
    critical = f_critical(level, degrees, residual)
    j = np.arange(TERMS)
    x = residual / (residual + degrees * critical)  # 1 - X at the critical value
    tail_j = _regularised_beta(np.full(TERMS, residual / 2), degrees / 2 + j, np.full(TERMS, x))
    log_factorial = np.cumsum(np.log(np.maximum(j, 1)))

    def rejects(noncentrality: float) -> float:
        half = noncentrality / 2
        return float(np.sum(np.exp(j * math.log(half) - half - log_factorial) * tail_j))

    low, high = 0.0, SEARCH_END
    require(rejects(high) > power, "level", level, f"a level that non-centrality {high} can reach")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rejects(middle) < power else (low, middle)
    return high


@dataclass(frozen=True)
class MeanTest:
    """Hotelling's one-sample test of E[x] = expected."""

    statistic: float  # T^2 = N (mean - expected)^T S^+ (mean - expected)
    p_value: float  # NaN if anything was not finite
    samples: int  # N
    degrees: int  # rank of S
    inverse: np.ndarray  # f[p, p]: S^+, S the sample covariance of one x

    def relative_bias(self, direction: np.ndarray, noncentrality: float) -> float:
        """Least |delta| such that a mean that is off by delta x direction has that non-centrality."""
        signal = float(direction @ self.inverse @ direction)
        return math.sqrt(noncentrality / (self.samples * signal)) if signal > 0 else math.nan


def mean_test(x_NxP: np.ndarray, expected_P: np.ndarray) -> MeanTest:
    """Hotelling: T^2 (N - d) / (d (N - 1)) is F(d, N - d) for normal x, and for any x of finite variance as N grows.

    A direction in which x never varies is tested by itself: the mean must be the stated one up to rounding, or else
    p = 0. REINFORCE without a baseline has some: trajectories that end wrong contribute nothing, and in the others
    every wrong answer is followed by RESAMPLE, so that coordinates of the two components determine each other.

    Args:
      x_NxP: independent vectors, N > p.
      expected_P: the stated mean.
    """
    N, P = x_NxP.shape
    require(N > P, "samples", N, f"more than the {P} coordinates of a vector")
    mean, scale = x_NxP.mean(axis=0), x_NxP.std(axis=0, ddof=1)
    # A constant column has a standard deviation of rounding size, not 0.
    size = np.maximum(np.abs(x_NxP).max(axis=0), np.abs(expected_P))
    varies = scale > RANK * size
    scale = np.where(varies, scale, np.maximum(size, np.finfo(float).tiny))
    z = (x_NxP - mean) / scale
    off = (mean - expected_P) / scale
    if not (np.isfinite(z).all() and np.isfinite(off).all()):
        return MeanTest(math.nan, math.nan, N, P, np.full((P, P), np.nan))
    eigenvalues, vectors = np.linalg.eigh(z.T @ z / (N - 1))
    kept = eigenvalues > RANK
    degrees = int(kept.sum())
    off_kept, off_null = vectors.T[kept] @ off, vectors.T[~kept] @ off
    rows = vectors.T[kept] / scale[None, :]
    inverse = rows.T @ (rows / eigenvalues[kept][:, None])
    if (np.abs(off_null) > SUM).any():
        return MeanTest(math.inf, 0.0, N, degrees, inverse)
    if degrees == 0:
        return MeanTest(0.0, 1.0, N, 0, inverse)
    statistic = float(N * np.sum(off_kept**2 / eigenvalues[kept]))
    f = statistic * (N - degrees) / (degrees * (N - 1))
    return MeanTest(statistic, _tail(f, degrees, N - degrees), N, degrees, inverse)

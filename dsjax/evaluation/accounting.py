"""What the sampler and the decider each bring to final accuracy (T10), for exact laws and for drawn samples alike.

A round is p = P(correct), a = P(STOP | correct), b = P(STOP | wrong). A drawn sample is a round with p = 0 or 1 whose
P(STOP) is known: a = b. Its decision is then averaged exactly instead of being drawn (Rao-Blackwell); that is right
with either history, as a round is only ever seen after RESAMPLE. Elementwise, for NumPy and JAX arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import require
from dsjax.statistics import RESAMPLES, Bootstrap, Estimate, Statistic, mean

Array = Any


def _arrays(*given: Array) -> tuple[Any, list[Array]]:
    """(namespace, the same as floats): JAX's if one of them is, else NumPy's."""
    xp = jnp if any(isinstance(x, jax.Array) for x in given) else np
    return xp, [xp.asarray(x, float) for x in given]


class Kept(NamedTuple):
    """What becomes of an episode, each f[..]."""

    right: Array  # P(the kept answer is correct)
    wrong: Array  # P(it is wrong)
    rounds: Array  # E[tau] = 1 + zeta + .. + zeta^(T-1): samples it takes


def kept(p: Array, a: Array, b: Array | None = None, rounds: int | None = None) -> Kept:
    """P(correct) = sum_t p_t a_t prod_(s<t) zeta_s with zeta = 1 - p a - (1 - p) b; the last round is kept by force.

    The geometric sum is added up term by term, so that zeta = 1 (never stops) needs no special case.

    Args:
      p: P(correct) of each round, f[.., T]; or f[..], the same in all `rounds`.
      a: P(STOP | correct).
      b: P(STOP | wrong); that of `a` for drawn samples.
      rounds: T >= 1, for rounds that are all alike.
    """
    xp, arrays = _arrays(p, a, a if b is None else b)
    arrays = xp.broadcast_arrays(*arrays)
    if rounds is not None:
        require(rounds >= 1, "rounds", rounds, "T >= 1")
        arrays = [xp.broadcast_to(x[..., None], (*x.shape, rounds)) for x in arrays]
    one = xp.ones_like(arrays[0][..., :1])
    p, a, b = arrays[0], *(xp.concatenate([x[..., :-1], one], axis=-1) for x in arrays[1:])
    zeta = 1.0 - p * a - (1.0 - p) * b
    alive = xp.cumprod(xp.concatenate([one, zeta[..., :-1]], axis=-1), axis=-1)
    return Kept(*(xp.sum(x, axis=-1) for x in (alive * (p * a), alive * ((1.0 - p) * b), alive)))


def final_accuracy(p: Array, a: Array, b: Array | None = None, rounds: int | None = None) -> Array:
    """acc_T = p a (1 - zeta^(T-1))/(1 - zeta) + zeta^(T-1) p: P(the kept answer is correct), f[..] (T10).

    zeta = 1 - p a - (1 - p) b, and the last round is kept by force. All arguments are probabilities.

    Args:
      p: P(correct) of each round, f[.., T]; or f[..], the same in all `rounds`.
      a: P(STOP | correct), f[.., T] or f[..].
      b: P(STOP | wrong), f[.., T] or f[..]; None: that of `a`, for drawn samples.
      rounds: T >= 1, for rounds that are all alike; None where the last axis counts them.
    """
    return kept(p, a, b, rounds).right


def log_odds(right: Array, wrong: Array) -> Array:
    """log(right / wrong), nats; infinite where one of them is 0.

    From both, not from right alone: 1 - right would be rounding dust where nothing wrong is kept.
    """
    xp, (right, wrong) = _arrays(right, wrong)
    with np.errstate(divide="ignore", invalid="ignore"):
        return xp.log(right) - xp.log(wrong)


def measures(p: Array, a: Array, b: Array | None = None, rounds: int | None = None) -> dict[str, Statistic]:
    """`accuracy`, `log_odds` of it (nats) and `rounds` of a sampler with a decider, as statistics over N problems.

    Averages over problems come first, then the log-odds: the two do not commute.

    Args:
      p: f[N, T], or f[N] with `rounds`; see `kept` for all of them.
      a: the same.
      b: the same.
      rounds: T.
    """
    found = kept(p, a, b, rounds)
    return {
        "accuracy": mean(found.right),
        "log_odds": lambda weights: log_odds(weights @ found.right, weights @ found.wrong),
        "rounds": mean(found.rounds),
    }


class Parts(NamedTuple):
    """The two components' parts of a quantity; `sampler + decider` is the whole."""

    sampler: Array
    decider: Array


def limit_parts(p: Array, a: Array, b: Array) -> Parts:
    """logit(p) and log(a / b), nats: their sum is the log-odds of acc_T as T grows (T10)."""
    xp, (p, a, b) = _arrays(p, a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Parts(log_odds(p, 1.0 - p), xp.log(a / b))


def shapley(value: Callable[[Any, Any], Any], base: tuple[Any, Any], new: tuple[Any, Any]) -> Parts:
    """Split value(new) - value(base) over {sampler, decider}: the mean over both orders of swapping them in.

    Args:
      value: function of (sampler, decider), e.g. final accuracy or its log-odds, whose values can be added and scaled.
      base: (sampler, decider) before.
      new: (sampler, decider) after.
    """
    v00, v11 = value(base[0], base[1]), value(new[0], new[1])
    v10, v01 = value(new[0], base[1]), value(base[0], new[1])
    return Parts(sampler=0.5 * ((v10 - v00) + (v11 - v01)), decider=0.5 * ((v01 - v00) + (v11 - v10)))


class Terms(NamedTuple):
    """The parts of a change of log-odds after many rounds; `sampler + mix + decider` is the whole change."""

    sampler: Array  # of logit(p)
    mix: Array  # of log(a/b), by what the new sampler answers
    decider: Array  # of log(a/b), by the new decider


def three_terms(p: Array, a: Array, b: Array) -> Terms:
    """Shapley parts of the limit logit(p) + log(a/b) for real swaps, nats (T22).

    Args:
      p: P(correct) of the old and the new sampler, f[2, ..].
      a: P(STOP | correct) by sampler and decider, old and new, f[2, 2, ..].
      b: P(STOP | wrong), likewise.
    """
    logit_p, _ = limit_parts(p, p, p)
    _, odds = limit_parts(a, a, b)
    mix, decider = shapley(lambda sampler, decider: odds[sampler, decider], (0, 0), (1, 1))
    return Terms(logit_p[1] - logit_p[0], mix, decider)


def cross_swap(
    right: Mapping[str, np.ndarray],
    log_stop: Mapping[tuple[str, str], np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Final accuracy of every sampler with every decider, {sampler: {decider: estimate}}, with intervals over problems.

    Args:
      right: the verifier's verdicts bool[N, T] by sampler.
      log_stop: log pi_d(STOP), f[N, T] nats, by (sampler, decider).
      resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    cells = {(s, d): measures(right[s], probability(x))["accuracy"] for (s, d), x in log_stop.items()}
    units = len(next(iter(right.values())))
    found = Bootstrap(units, resamples, seed).estimates({" ".join(pair): f for pair, f in cells.items()})
    out: dict[str, dict[str, Estimate]] = {}
    for (sampler, decider), cell in zip(cells, found.values(), strict=True):
        out.setdefault(sampler, {})[decider] = cell
    return out


def probability(log_stop: Any) -> np.ndarray:
    """P(STOP) in float64."""
    return np.exp(np.asarray(log_stop).astype(float))

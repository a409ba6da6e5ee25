"""What a decider keeps when problems change (docs/theory.md, T22): how far the laws of P(STOP) move, and what is left.

A statistic here is of weights f[R, N] that fall on the problems of both sets alike: of two sets of problems that have
nothing to do with each other, these are resamples of both.
"""

from __future__ import annotations

import numpy as np

from dsjax.evaluation.accounting import final_accuracy, log_odds
from dsjax.evaluation.components import rates
from dsjax.evaluation.deciders import BINS, bins_of
from dsjax.numerics import divide
from dsjax.statistics import Statistic


def moved(stop: np.ndarray, among: np.ndarray, stop_out: np.ndarray, among_out: np.ndarray) -> Statistic:
    """Total variation between the laws of P(STOP) on the samples marked in one set and in the other, by its bins.

    Sampling makes it too large and bins too small: what moves inside of a bin, whose width is 1/BINS, is not seen.

    Args:
      stop: P(STOP) f[N, T] in the first set.
      among: bool[N, T]: the samples that count, those that are right, or those that are wrong.
      stop_out: P(STOP) in the other set.
      among_out: the samples of it that count.
    """
    into = [(np.eye(BINS)[bins_of(s)] * m[..., None]).sum(1) for s, m in ((stop, among), (stop_out, among_out))]

    def statistic(weights_RxN: np.ndarray) -> np.ndarray:
        counts = [weights_RxN @ x for x in into]
        one, other = (divide(c, c.sum(1, keepdims=True), np.nan) for c in counts)
        return 0.5 * np.abs(one - other).sum(1)

    return statistic


def of_samples(
    inside: tuple[np.ndarray, np.ndarray], outside: tuple[np.ndarray, np.ndarray], history: str = "none"
) -> dict[str, Statistic]:
    """T22's `e_r`, `e_w`, the `fall` of logit p in nats, and `bound`: the accuracy that is left at least.

    bound: of the answers outside with the decider's a less e_r and its b plus e_w from inside, decisions averaged.

    Args:
      inside: (P(STOP) f[N, T], verdicts bool[N, T]) in distribution.
      outside: the same on other problems.
      history: with `full` the first sample counts, but for the bound.
    """
    cut = slice(None) if history == "none" else slice(1)
    (stop, right), (stop_out, right_out) = ((s[:, cut], r[:, cut].astype(bool)) for s, r in (inside, outside))
    known, lost = rates(right, stop), rates(right_out, stop_out)
    e_r, e_w = (moved(stop, x, stop_out, y) for x, y in ((right, right_out), (~right, ~right_out)))
    answers = outside[1].astype(float)

    def fall(weights_RxN: np.ndarray) -> np.ndarray:
        p, p_out = known["p"](weights_RxN), lost["p"](weights_RxN)
        with np.errstate(invalid="ignore"):  # inf - inf is NaN: it does not exist
            return log_odds(p, 1.0 - p) - log_odds(p_out, 1.0 - p_out)

    def bound(weights_RxN: np.ndarray) -> np.ndarray:
        a, b = (np.clip(known[x](weights_RxN) + e(weights_RxN), 0.0, 1.0) for x, e in (("a", _less(e_r)), ("b", e_w)))
        left = [
            w @ final_accuracy(answers, answers * x + (1 - answers) * y)
            for w, x, y in zip(weights_RxN, a, b, strict=True)
        ]
        return np.array(left) / weights_RxN.sum(1)

    return {"e_r": e_r, "e_w": e_w, "fall": fall, "bound": bound}


def _less(statistic: Statistic) -> Statistic:
    return lambda weights: -statistic(weights)

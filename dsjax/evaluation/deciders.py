"""What a decider is worth next to simpler rules: calibration, skill at a given resample rate, rivals at equal cost.

NumPy, on the host, for the samples of `draw_samples`: N problems, K samples each. Costs are counted in samples, which
all have the same number of tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dsjax.evaluation import accounting
from dsjax.statistics import Statistic, mean, ratio_of_sums

BINS = 10


def brier_score(stop_NxT: np.ndarray, right_NxT: np.ndarray) -> Statistic:
    """Mean of (P(STOP) - correct)^2: 0 for a decider that knows, p (1 - p) for the constant p."""
    loss = (stop_NxT - right_NxT) ** 2
    return ratio_of_sums(loss.sum(axis=1), np.full(len(loss), float(loss.shape[1])))


def bins_of(stop: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Number of the bin of each P(STOP); bins are equally wide."""
    return np.minimum((stop * bins).astype(int), bins - 1)


def reliability(stop_NxT: np.ndarray, right_NxT: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Fraction correct by bin of P(STOP), equally wide; and the expected calibration error, their mean distance.

    Returns:
      {"stop": mean P(STOP) of each bin, "right": fraction correct, "count", "error"}; None in an empty bin.
    """
    stop, right = stop_NxT.ravel().astype(float), right_NxT.ravel().astype(float)
    index = bins_of(stop, bins)
    count, of_stop, of_right = (
        np.bincount(index, weights=w, minlength=bins) for w in (np.ones_like(stop), stop, right)
    )
    error = float(np.abs(of_stop - of_right).sum() / count.sum())

    def means(total: np.ndarray) -> list[float | None]:
        return [float(t / n) if n else None for t, n in zip(total, count, strict=True)]

    return {"stop": means(of_stop), "right": means(of_right), "count": count.astype(int).tolist(), "error": error}


def at_resample_rate(stop_NxT: np.ndarray, rate: float) -> np.ndarray:
    """A decider's ranking with a given eagerness: RESAMPLE in that part of all decisions with the lowest P(STOP).

    Returns:
      Stop probabilities 0 or 1, f[N, T]; equal scores share what is left over for them.
    """
    flat = stop_NxT.ravel()
    wanted = rate * flat.size  # decisions to resample
    _, inverse, count = np.unique(flat, return_inverse=True, return_counts=True)
    below = np.cumsum(count) - count
    resampled = np.clip((wanted - below) / count, 0.0, 1.0)
    return (1.0 - resampled)[inverse].reshape(stop_NxT.shape)


def accuracy_at_rate(right_NxT: np.ndarray, stop_NxT: np.ndarray, rate: float) -> Statistic:
    """Final accuracy of `at_resample_rate`; the threshold is that of the whole sample."""
    return accounting.measures(right_NxT, at_resample_rate(stop_NxT, rate))["accuracy"]


def majority_right(answers_NxKxL: np.ndarray, right_NxK: np.ndarray, k: int) -> np.ndarray:
    """f[N]: probability that the most frequent of the first k answers, a tie broken at random, is correct."""
    answers = answers_NxKxL[:, :k]
    votes = (answers[:, :, None] == answers[:, None]).all(axis=-1).sum(axis=2)
    winner = votes == votes.max(axis=1, keepdims=True)
    # An answer with v votes is v winners: each carries 1/v of it, and distinct winners are equally likely.
    share = winner / votes
    return (share * right_NxK[:, :k]).sum(axis=1) / share.sum(axis=1)


def best_right(right_NxK: np.ndarray, stop_NxK: np.ndarray, k: int) -> np.ndarray:
    """f[N]: probability that the one of the first k answers with the highest P(STOP), ties at random, is correct."""
    stop, right = stop_NxK[:, :k], right_NxK[:, :k]
    best = stop == stop.max(axis=1, keepdims=True)
    return (best & right).sum(axis=1) / best.sum(axis=1)


class Use(NamedTuple):
    """One way to use samples, problem by problem."""

    right: np.ndarray  # f[N] P(the answer it ends with is correct)
    samples: np.ndarray  # f[N] mean number of samples it takes


def rules(answers_NxKxL: np.ndarray, right_NxK: np.ndarray, stop_NxK: np.ndarray) -> dict[str, list[Use]]:
    """Each way to use up to k = 1..K samples, by rule.

    `decider`: stop by pi_d, at most k rounds. `random`: a decider as eager as it, blind to the answer. `oracle`: stops
    at the first correct answer. `majority` and `best` (by P(STOP)): all k samples.
    """
    n, K = right_NxK.shape
    stops = {"decider": stop_NxK, "random": np.full_like(stop_NxK, stop_NxK.mean()), "oracle": right_NxK.astype(float)}
    out: dict[str, list[Use]] = {}
    for name, stop in stops.items():
        found = [accounting.kept(right_NxK[:, :k], stop[:, :k]) for k in range(1, K + 1)]
        out[name] = [Use(x.right, x.rounds) for x in found]
    spent = [np.full(n, float(k)) for k in range(1, K + 1)]
    out["majority"] = [Use(majority_right(answers_NxKxL, right_NxK, k), x) for k, x in enumerate(spent, 1)]
    out["best"] = [Use(best_right(right_NxK, stop_NxK, k), x) for k, x in enumerate(spent, 1)]
    return out


def at_equal_cost(rule: list[Use], decider: Use) -> Statistic:
    """Accuracy of the decider less that of a rule that spends as many samples.

    Between whole numbers of samples the rule is a mixture of its neighbours, drawn by lot.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        reached, spent = (mean(x)(weights) for x in decider)
        rights, costs = (np.stack([mean(x)(weights) for x in column]) for column in zip(*rule, strict=True))
        rival = np.array([np.interp(x, c, r) for x, c, r in zip(spent, costs.T, rights.T, strict=True)])
        return reached - rival

    return statistic

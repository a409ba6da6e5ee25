"""What a decider is worth next to simpler rules: calibration, skill at a given resample rate, rivals at equal cost.

NumPy, on the host. Attempts are those of `evaluation.draw_pool`: N problems, K attempts each, drawn as if every
decision had been RESAMPLE. Costs are counted in attempts: each has the same number of tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dsjax.evaluation.components import expected_accuracy, expected_rounds
from dsjax.statistics import Statistic, ratio_of_sums

BINS = 10


def brier_score(stop_NxT: np.ndarray, right_NxT: np.ndarray) -> Statistic:
    """Mean of (P(STOP) - right)^2: 0 for a decider that knows, p (1 - p) for the constant p."""
    loss = (stop_NxT - right_NxT) ** 2
    return ratio_of_sums(loss.sum(axis=1), np.full(len(loss), float(loss.shape[1])))


def reliability(stop_NxT: np.ndarray, right_NxT: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Fraction right by bin of P(STOP), equally wide; and the expected calibration error, their mean distance.

    Returns:
      {"stop": mean P(STOP) of each bin, "right": fraction right, "count", "error"}; None in an empty bin.
    """
    stop, right = stop_NxT.ravel().astype(float), right_NxT.ravel().astype(float)
    index = np.minimum((stop * bins).astype(int), bins - 1)
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
    kept = expected_accuracy(right_NxT, at_resample_rate(stop_NxT, rate))
    return ratio_of_sums(kept, np.ones(len(kept)))


def majority_right(answers_NxKxL: np.ndarray, right_NxK: np.ndarray, k: int) -> np.ndarray:
    """f[N]: probability that the most frequent of the first k answers, a tie broken at random, is right."""
    answers = answers_NxKxL[:, :k]
    votes = (answers[:, :, None] == answers[:, None]).all(axis=-1).sum(axis=2)
    winner = votes == votes.max(axis=1, keepdims=True)
    # An answer with v votes is v winners: each carries 1/v of it, and distinct winners are equally likely.
    share = winner / votes
    return (share * right_NxK[:, :k]).sum(axis=1) / share.sum(axis=1)


def best_right(right_NxK: np.ndarray, stop_NxK: np.ndarray, k: int) -> np.ndarray:
    """f[N]: probability that the one of the first k answers with the highest P(STOP), ties at random, is right."""
    stop, right = stop_NxK[:, :k], right_NxK[:, :k]
    best = stop == stop.max(axis=1, keepdims=True)
    return (best & right).sum(axis=1) / best.sum(axis=1)


def rules(
    answers_NxKxL: np.ndarray, right_NxK: np.ndarray, stop_NxK: np.ndarray
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Accuracy and cost of each way to use up to k = 1..K attempts: [{"right": f[N], "attempts": f[N]}] by rule.

    `decider`: stop by pi_d, at most k rounds. `random`: a decider as eager as it, blind to the answer. `oracle`: stops
    at the first right answer. `majority` and `best` (by P(STOP)): all k attempts.
    """
    n, K = right_NxK.shape
    blind = np.full_like(stop_NxK, stop_NxK.mean())
    out: dict[str, list[dict[str, np.ndarray]]] = {}
    for k in range(1, K + 1):
        right = right_NxK[:, :k]
        for name, stop in (("decider", stop_NxK), ("random", blind), ("oracle", right_NxK.astype(float))):
            used = {"right": expected_accuracy(right, stop[:, :k]), "attempts": expected_rounds(stop[:, :k])}
            out.setdefault(name, []).append(used)
        spent = np.full(n, float(k))
        out.setdefault("majority", []).append({"right": majority_right(answers_NxKxL, right_NxK, k), "attempts": spent})
        out.setdefault("best", []).append({"right": best_right(right_NxK, stop_NxK, k), "attempts": spent})
    return out


def at_equal_cost(rule: list[dict[str, np.ndarray]], decider: dict[str, np.ndarray]) -> Statistic:
    """Accuracy of the decider less that of a rule that spends as many attempts.

    Between whole numbers of attempts the rule is a mixture of its neighbours, drawn by lot.
    """
    one = np.ones(len(decider["right"]))

    def statistic(weights: np.ndarray) -> np.ndarray:
        spent, reached = (ratio_of_sums(decider[name], one)(weights) for name in ("attempts", "right"))
        costs, rights = (
            np.stack([ratio_of_sums(use[name], one)(weights) for use in rule]) for name in ("attempts", "right")
        )
        rival = np.array([np.interp(x, c, r) for x, c, r in zip(spent, costs.T, rights.T, strict=True)])
        return reached - rival

    return statistic

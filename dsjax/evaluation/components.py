"""Measures of the two components: p = P(correct), a = P(STOP | correct), b = P(STOP | wrong), AUROC, and outcomes.

Without history all samples of a problem have one law, and p, a, b and AUROC use all of them. With history `full` they
are about the first sample and the decision on it, which every episode comes to.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dsjax.evaluation import accounting
from dsjax.evaluation.samples import draw_samples
from dsjax.policies.base import Params
from dsjax.statistics import Bootstrap, Estimate, Statistic, auroc, difference, ratio_of_sums
from dsjax.tasks import Problems, Task


def samples_that_count(history: str, *arrays_NxT: np.ndarray) -> list[np.ndarray]:
    """The samples that p, a, b and AUROC are about: all, or with history the first."""
    return [x if history == "none" else x[:, :1] for x in arrays_NxT]


def rates(right_NxT: np.ndarray, stop_NxT: np.ndarray) -> dict[str, Statistic]:
    """p, a and b as statistics over problems; NumPy or JAX arrays."""
    right = right_NxT.astype(float)
    wrong, stop = 1 - right, stop_NxT
    return {
        "p": ratio_of_sums(right.sum(1), (right + wrong).sum(1)),
        "a": ratio_of_sums((right * stop).sum(1), right.sum(1)),
        "b": ratio_of_sums((wrong * stop).sum(1), wrong.sum(1)),
    }


def component_statistics(right: np.ndarray, stop: np.ndarray, history: str = "none") -> dict[str, Statistic]:
    """Statistics over problems of one sampler with one decider, from verdicts bool[N, T] and P(STOP) f[N, T].

    p, a, b and the AUROC of P(STOP) over `samples_that_count`; Youden's index a - b; final accuracy at T,
    gain = accuracy - p, mean rounds.
    """
    counted, decided = samples_that_count(history, right, stop)
    found, outcome = rates(counted, decided), accounting.measures(right, stop)
    return {
        **found,
        "youden": difference(found["a"], found["b"]),
        "auroc": auroc(decided, counted),
        "accuracy": outcome["accuracy"],
        "gain": difference(outcome["accuracy"], found["p"]),
        "rounds": outcome["rounds"],
    }


def measure(
    policy: Any, params: Params, task: Task, problems: Problems, key: jax.Array, rounds: int, resamples: int = 0
) -> dict[str, Estimate]:
    """`component_statistics` of a policy on problems, with intervals over problems if there are `resamples`."""
    samples, log_stop = draw_samples(policy, params, task, problems, key, rounds)
    right = np.asarray(samples.right)
    found = component_statistics(right, accounting.probability(log_stop), policy.history)
    return Bootstrap(len(right), resamples).estimates(found)

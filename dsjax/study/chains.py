"""Chains and guesses in a study: what T17 predicts from the base's demonstrations alone, and what was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsjax.evaluation import mixture
from dsjax.statistics import PROBABILITY, Bootstrap, Estimate, mean, ratio_of_sums
from dsjax.study.measures import Evaluated
from dsjax.tasks import Task

MEASURES = ("first_on_chain", "stop_on_chain", "right_off_chain")


def predicted(p: float, task: Task) -> dict[str, float]:
    """Closed forms at a chain share p and guesses that are right with s = 1/V^L.

    `imitation` is the accuracy where continued imitation stays, `rft_round` that after one round of imitating own
    successes, `reward` where reward ends; `stop` is P(STOP | first answer = the chain's) of the base, `stop_rft_round`
    that after the round; `sampler` and `decider` are the parts of reward's gain (`mixture.reward_parts`).
    """
    s = 1.0 / task.vocabulary**task.length
    after = mixture.after_success(p, s)
    return {
        "chain_share": p,
        "guess": s,
        "imitation": mixture.accuracy(p, s),
        "rft_round": mixture.accuracy(after, s),
        "reward": 1.0,
        "stop": mixture.stop_at_prefix(p, s),
        "stop_rft_round": mixture.stop_at_prefix(after, s),
        **mixture.reward_parts(p, s)._asdict(),
    }


def found_in(task: Task, split: str, seeds: Sequence[Evaluated], resamples: int) -> dict[str, dict[str, Estimate]]:
    """Estimates by model: how often a first answer is the chain's, P(STOP) there, and how often one off it is right.

    `right_off_chain` is above the guess s of the theory if the network has learned the sum itself.
    """
    problems = task.evaluation_problems(split, seeds[0].problems)
    step_NxL = np.asarray(task.steps(problems).answers)[:, 0]
    bootstrap = Bootstrap(seeds[0].problems, resamples)
    out: dict[str, dict[str, Estimate]] = {}
    for i, model in enumerate(seeds[0].models):
        on = [(e.answers[i, :, 0] == step_NxL).all(-1).astype(float) for e in seeds]
        stop = [np.exp(e.own[i, :, 0].astype(float)) for e in seeds]
        right = [e.right[i, :, 0].astype(float) for e in seeds]
        statistics = {
            "first_on_chain": [mean(x) for x in on],
            "stop_on_chain": [ratio_of_sums(x * y, x) for x, y in zip(on, stop, strict=True)],
            "right_off_chain": [ratio_of_sums((1 - x) * y, 1 - x) for x, y in zip(on, right, strict=True)],
        }
        out[model] = {k: bootstrap.of(*statistics[k], within=PROBABILITY).estimate() for k in MEASURES}
    return out

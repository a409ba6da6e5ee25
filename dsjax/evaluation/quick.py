"""One policy on held-out problems: the quick look that training curves take too."""

from __future__ import annotations

import jax

from dsjax.evaluation.components import measure
from dsjax.policies import Params, Policy
from dsjax.statistics import Estimate
from dsjax.tasks import Task


def evaluate(
    policy: Policy,
    params: Params,
    task: Task,
    *,
    rounds: int = 3,
    split: str = "in",
    problems: int = 256,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Estimate]:
    """p, a, b, accuracy and more of a policy, on fixed problems that no training sees, with intervals over problems.

    p = P(answer right), a = P(STOP | right), b = P(STOP | wrong), accuracy = P(kept answer right) after at most
    `rounds` rounds: probabilities. Answers are drawn at temperature 1, decisions averaged by their probabilities; see
    `evaluation.components`.

    Args:
      policy: any policy for answers of `task`.
      params: its parameters.
      task: the task.
      rounds: T >= 1.
      split: of the task.
      problems: how many.
      seed: of the answers; the problems are always the same.
      resamples: of the bootstrap; 0: no intervals.

    Raises:
      InputError: for a split that does not exist, or with fewer problems.
    """
    asked = task.evaluation_problems(split, problems)
    return measure(policy, params, task, asked, jax.random.key(seed), rounds, resamples)

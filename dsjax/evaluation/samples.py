"""Samples of fixed held-out problems, and what any decider thinks of them.

They are drawn at temperature 1 for all T rounds, as if every decision before had been RESAMPLE.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import struct

from dsjax.errors import require
from dsjax.policies.base import Params, Policy
from dsjax.policies.rollout import sample
from dsjax.tasks import Problems, Task
from dsjax.trajectories import STOP


class Samples(struct.PyTreeNode):
    """Answers of one sampler with their verdicts: N problems x T samples."""

    prompt: Any  # i32[N, P]
    answers: Any  # i32[N, T, L]
    right: Any  # bool[N, T]


@partial(jax.jit, static_argnames=("task", "rounds"))
def draw_samples(
    policy: Policy, params: Params, task: Task, problems: Problems, key: jax.Array, rounds: int
) -> tuple[Samples, jax.Array]:
    """A sampler's answers to the problems, and the same policy's log pi_d(STOP) for each, f[N, T] nats."""
    drawn = sample(policy, params, problems.prompt, key, rounds=rounds)
    right = task.score(drawn.answers, problems) > 0.5
    return Samples(problems.prompt, drawn.answers, right), drawn.log_decision[..., STOP]


@jax.jit
def judge(policy: Policy, params: Params, samples: Samples) -> jax.Array:
    """log pi_d(STOP), f[N, T] nats, of this policy's decider for another sampler's answers."""
    _, log_decision = policy.log_dists(params, samples.prompt, samples.answers)
    return log_decision[..., STOP]


def evaluation_sets(task: Task, splits: tuple[str, ...], problems: int) -> dict[str, Problems]:
    """The fixed problems of each split."""
    for split in splits:
        require(split in task.splits, "split", split, task.splits)
    return {split: task.evaluation_problems(split, problems) for split in splits}

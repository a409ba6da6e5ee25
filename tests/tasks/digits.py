"""Numbers written as digits, and read again."""

from __future__ import annotations

import hashlib
from functools import partial

import jax
import numpy as np

from dsjax.tasks.base import TwoNumbers


def number(digits) -> int:
    return int("".join(str(int(d)) for d in digits))


def spelled(x: int, width: int) -> list[int]:
    return [int(d) for d in str(x).zfill(width)]


def operands_of(task: TwoNumbers, prompt) -> list[tuple[int, int]]:
    W = task.width
    return [(number(row[:W]), number(row[W + 1 : 2 * W + 1])) for row in np.asarray(prompt)]


def as_operands(task: TwoNumbers, prompt) -> np.ndarray:
    W, prompt = task.width, np.asarray(prompt)
    return np.stack([prompt[:, :W], prompt[:, W + 1 : 2 * W + 1]], axis=1)


@partial(jax.jit, static_argnums=(0, 2))
def belongs(task: TwoNumbers, question, split: str) -> jax.Array:
    return task.belongs(question, split)


@partial(jax.jit, static_argnums=0)
def is_held_out(task: TwoNumbers, question) -> jax.Array:
    return task.is_held_out(question)


def assert_problems_are(task, split, training, evaluation, digests):
    """Text of three problems of each kind, and digests of more, which are drawn in several rounds."""
    for problems, want in (
        (task.training_problems(jax.random.key(0), 3, split), training),
        (task.evaluation_problems(split, 3), evaluation),
    ):
        prompts, answers = np.asarray(problems.prompt), np.asarray(problems.answer)
        assert [task.text(p, a) for p, a in zip(prompts, answers, strict=True)] == want
    more = task.training_problems(jax.random.key(7), 300, split), task.evaluation_problems(split, 256)
    assert tuple(hashlib.sha256(np.asarray(x.prompt).tobytes()).hexdigest()[:16] for x in more) == digests

"""Numbers written as digits, and read again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.tasks.base import TwoNumbers


def number(digits) -> int:
    return int("".join(str(int(d)) for d in digits))


def spelled(x: int, width: int) -> list[int]:
    return [int(d) for d in str(x).zfill(width)]


def operands_of(task: TwoNumbers, prompt) -> list[tuple[int, int]]:
    W = task.width
    return [(number(row[:W]), number(row[W + 1 : 2 * W + 1])) for row in np.asarray(prompt)]


def as_operands(task: TwoNumbers, prompt) -> jax.Array:
    W = task.width
    return jnp.stack([prompt[:, :W], prompt[:, W + 1 : 2 * W + 1]], axis=1)

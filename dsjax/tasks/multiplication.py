"""Multiplication of numbers of up to D digits, most significant digit first.

Prompt tokens: `a b` as W digits each with leading zeros, `*` and `=`; answer: 2 W digits, leading zeros included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dsjax.tasks.base import HELD_OUT_ONE_IN, TwoNumbers, hashed

SPLITS = {
    "in": "in distribution (all lengths trained on)",
    "hard": "in distribution (both operands of the greatest length)",
    "longer": "out of distribution (longer operands)",
}


def multiply_digits(a_nxW: jax.Array, b_nxW: jax.Array) -> jax.Array:
    """Product digits i32[n, 2 W] of numbers given most significant digit first.

    Column by column: W products and a carry stay below 90 W, far from the end of int32.
    """
    n, W = a_nxW.shape
    products = a_nxW[:, :, None] * b_nxW[:, None, :]
    # In rows that are one shorter than they were padded to, entry i, j stands in column i + j.
    skewed = jnp.pad(products, ((0, 0), (0, 0), (0, W))).reshape(n, -1)[:, : W * (2 * W - 1)]
    columns = jnp.sum(skewed.reshape(n, W, 2 * W - 1), axis=1, dtype=jnp.int32)

    def carried(carry: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = column + carry
        return total // 10, total % 10

    first, others = jax.lax.scan(carried, jnp.zeros(n, jnp.int32), columns.T, reverse=True)
    return jnp.concatenate([first[:, None], others.T], axis=1)


def lengths(operands_nx2xW: jax.Array) -> jax.Array:
    """i32[n, 2]: digits of each operand without leading zeros; 1 for zero."""
    W = operands_nx2xW.shape[2]
    places = jnp.arange(W, 0, -1, dtype=jnp.int32)[None, None, :]
    return jnp.maximum(1, jnp.max(jnp.where(operands_nx2xW > 0, places, 0), axis=2))


@dataclass(frozen=True)
class Multiplication(TwoNumbers):
    """The task; hashable, so that it can be a static argument.

    A split is a set of pairs of lengths (digits without leading zeros): `in` = both at most D; `hard` = both exactly D,
    a part of `in` (needs D >= 2); `longer` = the longer one exactly D + 1, the other at most that (needs `width` >
    `digits`), so that it reaches from one long operand to two. Law: the pair of lengths is uniform over the
    set, then each operand is uniform over the numbers of its length (0 is one of ten with one digit), given that the
    problem is held out (evaluation) or not (training). Evaluation problems are distinct, so short ones run out.

    Attributes:
      digits: D >= 1, greatest length in distribution.
      width: W >= D, digits written per operand; 0 means D.
    """

    digits: int = 2
    width: int = 0

    split_names: ClassVar[Mapping[str, str]] = SPLITS
    symbol: ClassVar[str] = "*"

    @property
    def length(self) -> int:
        """L = 2 W."""
        return 2 * self.width

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that exist at this size."""
        exists = {"in": True, "hard": self.digits >= 2, "longer": self.width > self.digits}
        return tuple(s for s in SPLITS if exists[s])

    def is_held_out(self, question: jax.Array) -> jax.Array:
        """bool[n]: whether a problem is kept for evaluation; a * b and b * a are kept together.

        Otherwise training on one order could give the other one away.
        """
        in_both_orders = hashed(question), hashed(question[:, ::-1])
        return jnp.maximum(*in_both_orders) % HELD_OUT_ONE_IN == 0

    def _answer(self, a_nxW: jax.Array, b_nxW: jax.Array) -> jax.Array:
        return multiply_digits(a_nxW, b_nxW)

    def belongs(self, question: jax.Array, split: str) -> jax.Array:
        """By the lengths of both."""
        length = lengths(question)
        if split == "hard":
            return jnp.all(length == self.digits, axis=1)
        longest = jnp.max(length, axis=1)
        return longest == self.digits + 1 if split == "longer" else longest <= self.digits

    def draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Uniform lengths, then uniform numbers of each."""
        length_key, lead_key, digits_key = jax.random.split(key, 3)
        least, most = (self.digits if split == "hard" else 1), self.digits + (split == "longer")
        length = jax.random.randint(length_key, (n, 2, 1), least, most + 1, dtype=jnp.int32)
        lead = jax.random.randint(lead_key, (n, 2, 1), 1, 10, dtype=jnp.int32)
        digits = jax.random.randint(digits_key, (n, 2, self.width), 0, 10, dtype=jnp.int32)
        place = jnp.arange(self.width, 0, -1, dtype=jnp.int32)[None, None, :]
        digits = jnp.where((place == length) & (length > 1), lead, digits)
        return jnp.where(place <= length, digits, 0)

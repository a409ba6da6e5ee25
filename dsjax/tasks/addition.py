"""Addition of D-digit numbers, most significant digit first.

Writing the answer needs carry look-ahead while checking it is local, so sampling and deciding are different skills.
Prompt tokens: `a b` as W digits each with leading zeros, `+` and `=`; answer: W + 1 digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dsjax.tasks.base import TwoNumbers

SPLITS = {
    "in": "in distribution (carry chain <= 2)",
    "carry": "out of distribution (carry chain >= 3)",
    "longer": "out of distribution (longer operands)",
}
LONG_CHAIN = 3


def add_digits(a_nxW: jax.Array, b_nxW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum digits i32[n, W + 1], longest carry chain i32[n]) of numbers given most significant digit first.

    The longest carry chain is the longest run of neighbouring columns that each carry out.
    """
    carry = run = longest = jnp.zeros(a_nxW.shape[0], jnp.int32)
    digits = []
    for column in reversed(range(a_nxW.shape[1])):
        total = a_nxW[:, column] + b_nxW[:, column] + carry
        carry = total // 10
        digits.append(total % 10)
        run = jnp.where(carry > 0, run + 1, 0)
        longest = jnp.maximum(longest, run)
    return jnp.stack([carry, *reversed(digits)], axis=-1), longest


@dataclass(frozen=True)
class Addition(TwoNumbers):
    """The task; hashable, so that it can be a static argument.

    Splits, each uniform: `in` = longest carry chain <= 2; `carry` = chain >= 3 (needs D >= 3); `longer` = both operands
    have one digit more, chain <= 2 (needs `width` > `digits`).

    Attributes:
      digits: D >= 1, digits of the operands in distribution (leading zeros allowed).
      width: W >= D, digits written per operand; 0 means D.
    """

    digits: int = 3
    width: int = 0

    split_names: ClassVar[Mapping[str, str]] = SPLITS
    symbol: ClassVar[str] = "+"

    @property
    def length(self) -> int:
        """L = W + 1."""
        return self.width + 1

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that exist at this size."""
        exists = {"in": True, "carry": self.digits >= LONG_CHAIN, "longer": self.width > self.digits}
        return tuple(s for s in SPLITS if exists[s])

    def _answer(self, a_nxW: jax.Array, b_nxW: jax.Array) -> jax.Array:
        return add_digits(a_nxW, b_nxW)[0]

    def belongs(self, question: jax.Array, split: str) -> jax.Array:
        """By length and carry chain."""
        _, chain = add_digits(question[:, 0], question[:, 1])
        used = self.digits + (split == "longer")
        lead = self.width - used
        fits = jnp.all(question[:, :, :lead] == 0, axis=(1, 2))
        if split == "longer":
            fits &= jnp.all(question[:, :, lead] > 0, axis=1)
        return fits & ((chain >= LONG_CHAIN) if split == "carry" else (chain < LONG_CHAIN))

    def draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Uniform digits."""
        used = self.digits + (split == "longer")
        digits = jax.random.randint(key, (n, 2, used), 0, 10, dtype=jnp.int32)
        return jnp.pad(digits, ((0, 0), (0, 0), (self.width - used, 0)))

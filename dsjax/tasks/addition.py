"""Addition of D-digit numbers, most significant digit first.

Writing the answer needs carry look-ahead while checking it is local, so sampling and deciding are different skills.
Prompt tokens: `a b` as W digits each with leading zeros, `+` and `=`; answer: W + 1 digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.errors import InputError, require

PLUS, EQUALS = 10, 11
SPLITS = {
    "in": "in distribution (carry chain <= 2)",
    "carry": "out of distribution (carry chain >= 3)",
    "longer": "out of distribution (longer operands)",
}
LONG_CHAIN = 3
HELD_OUT_ONE_IN = 16
EVALUATION_SEED = 20_260_101


class Problems(struct.PyTreeNode):
    """n problems with their right answers."""

    prompt: jax.Array  # i32[n, 2 W + 2]
    answer: jax.Array  # i32[n, W + 1]


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


def is_held_out(operands_nx2xW: jax.Array) -> jax.Array:
    """bool[n]: whether a problem is kept for evaluation, by a hash of its digits (about one in 16).

    Training draws only problems that are not, evaluation only problems that are: disjoint by construction.
    """
    h = jnp.full(operands_nx2xW.shape[0], 2_166_136_261, jnp.uint32)
    for digit in operands_nx2xW.reshape(operands_nx2xW.shape[0], -1).T.astype(jnp.uint32):
        h = (h ^ digit) * jnp.uint32(16_777_619)
    h = (h ^ (h >> 15)) * jnp.uint32(2_246_822_519)
    h = h ^ (h >> 13)
    return h % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class AdditionTask:
    """The task; hashable, so that it can be a static argument.

    Splits: `in` = longest carry chain <= 2; `carry` = chain >= 3 (needs D >= 3); `longer` = both operands have one
    digit more, chain <= 2 (needs `width` > `digits`).

    Attributes:
      digits: D >= 1, digits of the operands in distribution (leading zeros allowed).
      width: W >= D, digits written per operand; 0 means D.
    """

    digits: int = 3
    width: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.digits <= 64, "digits", self.digits, "1..64")
        if self.width == 0:
            object.__setattr__(self, "width", self.digits)
        require(self.digits <= self.width <= 64, "width", self.width, f"{self.digits}..64, or 0 for {self.digits}")

    @property
    def prompt_vocabulary(self) -> int:
        """Ten digits, `+`, `=`."""
        return 12

    @property
    def prompt_length(self) -> int:
        """P = 2 W + 2."""
        return 2 * self.width + 2

    @property
    def vocabulary(self) -> int:
        """V = 10."""
        return 10

    @property
    def length(self) -> int:
        """L = W + 1."""
        return self.width + 1

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist at this size, in distribution first."""
        exists = {"in": True, "carry": self.digits >= LONG_CHAIN, "longer": self.width > self.digits}
        return tuple(s for s in SPLITS if exists[s])

    def problems(self, operands_nx2xW: jax.Array) -> Problems:
        """Prompts and answers of operand pairs."""
        a, b = operands_nx2xW[:, 0], operands_nx2xW[:, 1]
        answer, _ = add_digits(a, b)
        plus, equals = (jnp.full((a.shape[0], 1), x, jnp.int32) for x in (PLUS, EQUALS))
        return Problems(prompt=jnp.concatenate([a, plus, b, equals], axis=-1), answer=answer)

    def belongs(self, operands_nx2xW: jax.Array, split: str) -> jax.Array:
        """bool[n]: whether a problem is of the split.

        Raises:
          InputError: for a split that does not exist at this size.
        """
        require(split in self.splits, "split", split, self.splits)
        _, chain = add_digits(operands_nx2xW[:, 0], operands_nx2xW[:, 1])
        used = self.digits + (split == "longer")
        lead = self.width - used
        fits = jnp.all(operands_nx2xW[:, :, :lead] == 0, axis=(1, 2))
        if split == "longer":
            fits &= jnp.all(operands_nx2xW[:, :, lead] > 0, axis=1)
        return fits & ((chain >= LONG_CHAIN) if split == "carry" else (chain < LONG_CHAIN))

    def _draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        used = self.digits + (split == "longer")
        digits = jax.random.randint(key, (n, 2, used), 0, 10, dtype=jnp.int32)
        return jnp.pad(digits, ((0, 0), (0, 0), (self.width - used, 0)))

    @partial(jax.jit, static_argnames=("self", "n", "split"))
    def training_problems(self, key: jax.Array, n: int, split: str = "in") -> Problems:
        """N fresh problems of the split, uniform over its problems that are not held out (rejection sampling)."""

        def rejected(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            return ~jnp.all(state[2])

        def redraw(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            key, operands, accepted = state
            key, draw_key = jax.random.split(key)
            fresh = self._draw(draw_key, n, split)
            operands = jnp.where(accepted[:, None, None], operands, fresh)
            return key, operands, self.belongs(operands, split) & ~is_held_out(operands)

        start = (key, jnp.zeros((n, 2, self.width), jnp.int32), jnp.zeros(n, bool))
        return self.problems(jax.lax.while_loop(rejected, redraw, start)[1])

    def evaluation_problems(self, split: str, n: int) -> Problems:
        """The first n of a fixed sequence of distinct held-out problems; the same for every seed and run.

        Raises:
          InputError: if the split has fewer held-out problems.
        """
        require(n >= 1, "evaluation problems", n, "at least 1")
        require(split in self.splits, "split", split, self.splits)
        found = np.zeros((0, 2, self.width), np.int32)
        keys = jax.random.split(jax.random.key(EVALUATION_SEED + list(SPLITS).index(split)), 64)
        for key in keys:
            candidates = self._draw(key, max(64 * n, 4096), split)
            keep = np.asarray(self.belongs(candidates, split) & is_held_out(candidates))
            found = np.concatenate([found, np.asarray(candidates)[keep]])
            _, first = np.unique(found.reshape(len(found), -1), axis=0, return_index=True)
            found = found[np.sort(first)]
            if len(found) >= n:
                return self.problems(jnp.asarray(found[:n]))
        raise InputError("evaluation problems", n, f"at most {len(found)} (held out in split {split!r} of {self})")

    def score(self, answers: jax.Array, right_answer: jax.Array) -> jax.Array:
        """Verifier: f32[...] 1 where all L digits are right; broadcasts over equal ranks."""
        return jnp.all(answers == right_answer, axis=-1).astype(jnp.float32)

    def corrupt(self, key: jax.Array, answer_nxL: jax.Array) -> jax.Array:
        """The answers with one digit, at a uniform place, changed to another one."""
        place_key, shift_key = jax.random.split(key)
        n, L = answer_nxL.shape
        place = jax.nn.one_hot(jax.random.randint(place_key, (n,), 0, L), L, dtype=jnp.int32)
        shift = jax.random.randint(shift_key, (n, 1), 1, 10, dtype=jnp.int32)
        return (answer_nxL + place * shift) % 10

    def text(self, prompt: jax.Array, answer: jax.Array | None = None) -> str:
        """Readable form, `046+938=` and the answer's digits."""
        symbols = "0123456789+="
        words = "".join(symbols[int(t)] for t in np.asarray(prompt))
        return words + ("" if answer is None else "".join(symbols[int(t)] for t in np.asarray(answer)))

"""Countdown: reach a target with given numbers. There are many right answers, and checking is easier than finding.

Prompt tokens: k numbers of 1..9, the target in two digits, `=`. Answer: the numbers, each used once, in some order,
with an operation between neighbours, applied from left to right: 2 k - 1 tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.config import require_range
from dsjax.tasks.base import HELD_OUT_ONE_IN, Problems, Task, hashed

SYMBOLS = "0123456789+-x"
PLUS, MINUS, TIMES = 10, 11, 12
EQUALS = 10  # among prompt tokens
MOST = 99  # largest target

SPLITS = {
    "in": "in distribution (+ and - reach the target)",
    "times": "out of distribution (only with x)",
}


def values(answer: jax.Array) -> jax.Array:
    """i32[...]: values of expressions i32[..., 2 k - 1] from left to right, whose tokens are well-formed."""
    value = answer[..., 0]
    for i in range(1, answer.shape[-1], 2):
        operation, number = answer[..., i], answer[..., i + 1]
        changed = jnp.where(operation == MINUS, value - number, value * number)
        value = jnp.where(operation == PLUS, value + number, changed)
    return value


@cache
def _forms(numbers: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(order i32[M, k], operations i32[M, k - 1], number without x) of all expressions, those without x first."""
    operations = sorted(itertools.product((PLUS, MINUS, TIMES), repeat=numbers - 1), key=lambda o: TIMES in o)
    rows = [(order, o) for o in operations for order in itertools.permutations(range(numbers))]
    without = sum(TIMES not in o for _, o in rows)
    return np.array([order for order, _ in rows], np.int32), np.array([o for _, o in rows], np.int32), without


@dataclass(frozen=True)
class Countdown(Task):
    """The task; hashable, so that it can be a static argument.

    Splits: `in` = some expression with + and - alone reaches the target; `times` = only one with x does. Law: uniform
    numbers, order and operations, given that the value is in 0..99 and that the problem is of the split. The order in
    which the numbers are shown does not matter for what is held out.

    Attributes:
      numbers: k, how many are given.
      canonical: demonstrations show the first right expression in a fixed order, without x if there is one; otherwise
        one of all right ones with the same operations allowed, by a hash of the problem.
    """

    numbers: int = 3
    canonical: bool = True

    split_names: ClassVar[Mapping[str, str]] = SPLITS
    prompt_vocabulary: ClassVar[int] = 11
    vocabulary: ClassVar[int] = len(SYMBOLS)

    def __post_init__(self) -> None:
        require_range("numbers", self.numbers, 2, 4, "since all expressions are tried")

    @property
    def length(self) -> int:
        """L = 2 k - 1."""
        return 2 * self.numbers - 1

    @property
    def prompt_length(self) -> int:
        """P = k + 3."""
        return self.numbers + 3

    def _reached(self, question: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All expressions i32[n, M, L], bool[n, M] which reach the target, and which of those do without x if any."""
        order, operations, without = _forms(self.numbers)
        answers = jnp.zeros((len(question), len(order), self.length), jnp.int32)
        answers = answers.at[:, :, ::2].set(question[:, order]).at[:, :, 1::2].set(jnp.asarray(operations)[None])
        reached = values(answers) == question[:, -1:]
        easy = reached & (jnp.arange(len(order), dtype=jnp.int32) < without)[None]
        return answers, reached, easy

    def belongs(self, question: jax.Array, split: str) -> jax.Array:
        """By what reaches the target."""
        _, reached, easy = self._reached(question)
        without, target = jnp.any(easy, axis=1), question[:, -1]
        solved = without if split == "in" else ~without & jnp.any(reached, axis=1)
        return solved & (target >= 0) & (target <= MOST)

    def is_held_out(self, question: jax.Array) -> jax.Array:
        """bool[n]: whether a problem is kept for evaluation, in whatever order its numbers are shown."""
        in_order = jnp.concatenate([jnp.sort(question[:, :-1], axis=1), question[:, -1:]], axis=1)
        return hashed(in_order) % HELD_OUT_ONE_IN == 0

    def draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Numbers and target i32[n, k + 1] of random expressions, which uses the numbers as they are shown or not."""
        number_key, operation_key, order_key = jax.random.split(key, 3)
        numbers = jax.random.randint(number_key, (n, self.numbers), 1, 10, dtype=jnp.int32)
        last = TIMES + (split == "times")
        operations = jax.random.randint(operation_key, (n, self.numbers - 1), PLUS, last, dtype=jnp.int32)
        expression = jnp.zeros((n, self.length), jnp.int32).at[:, ::2].set(numbers).at[:, 1::2].set(operations)
        shown = jax.random.permutation(order_key, numbers, axis=1, independent=True)
        return jnp.concatenate([shown, values(expression)[:, None]], axis=1)

    def problems(self, question: jax.Array) -> Problems:
        """Prompts, and the answers that demonstrations show."""
        answers, reached, easy = self._reached(question)
        allowed = jnp.where(jnp.any(easy, axis=1, keepdims=True), easy, reached)
        place = jnp.broadcast_to(jnp.arange(allowed.shape[1], dtype=jnp.int32)[None], allowed.shape)
        rank = place.astype(jnp.uint32)
        if not self.canonical:  # a hash ranks the expressions of each problem anew, so that the least is a fair choice
            rows = jnp.broadcast_to(question[:, None], (*allowed.shape, self.numbers + 1))
            both = jnp.concatenate([rows, place[..., None]], axis=2)
            rank = hashed(both.reshape(-1, self.numbers + 2)).reshape(allowed.shape) >> 1
        chosen = jnp.argmin(jnp.where(allowed, rank, jnp.uint32(2**31)), axis=1)
        answer = jnp.take_along_axis(answers, chosen[:, None, None], axis=1)[:, 0]
        target, equals = question[:, -1], jnp.full((len(question), 1), EQUALS, jnp.int32)
        digits = jnp.stack([target // 10, target % 10], axis=1)
        return Problems(jnp.concatenate([question[:, :-1], digits, equals], axis=1), answer)

    def score(self, answers: jax.Array, problems: Problems) -> jax.Array:
        """1 where an expression is well-formed, uses each number once and reaches the target."""
        given = jnp.sort(problems.prompt[:, : self.numbers], axis=1)[:, None]
        target = 10 * problems.prompt[:, self.numbers] + problems.prompt[:, self.numbers + 1]
        numbers, operations = answers[..., ::2], answers[..., 1::2]
        uses = jnp.all(jnp.sort(numbers, axis=-1) == given, axis=-1)
        formed = jnp.all((operations >= PLUS) & (operations <= TIMES), axis=-1)
        return (uses & formed & (values(answers) == target[:, None])).astype(jnp.float32)

    def corrupt(self, key: jax.Array, answer_nxL: jax.Array) -> jax.Array:
        """Wrong for sure: one number, at a uniform place, changed to another of 1..9."""
        place_key, shift_key = jax.random.split(key)
        n, L = answer_nxL.shape
        place = jax.nn.one_hot(2 * jax.random.randint(place_key, (n,), 0, self.numbers), L, dtype=jnp.int32)
        shift = jax.random.randint(shift_key, (n, 1), 1, 9, dtype=jnp.int32)
        return jnp.where(place == 1, (answer_nxL - 1 + shift) % 9 + 1, answer_nxL)

    def text(self, prompt: jax.Array, answer: jax.Array | None = None) -> str:
        """Readable form, such as `3 5 8 -> 16:` and the answer's symbols."""
        *numbers, tens, ones, _ = (int(t) for t in np.asarray(prompt))
        words = f"{' '.join(map(str, numbers))} -> {10 * tens + ones}:"
        return words if answer is None else f"{words} {''.join(SYMBOLS[int(t)] for t in np.asarray(answer))}"

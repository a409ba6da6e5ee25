"""Countdown: reach a target with given numbers. There are many right answers, and checking is easier than finding.

Prompt tokens: k numbers of 1..9, the target in two digits, `=`. Answer: the numbers, each used once, in some order,
with an operation between neighbours, applied from left to right: 2 k - 1 tokens. Where there is room for W > k numbers
prompts and answers are filled up with a blank.
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

SYMBOLS = "0123456789+-x_"
PLUS, MINUS, TIMES, BLANK = 10, 11, 12, 13
EQUALS, NO_NUMBER = 10, 11  # among prompt tokens
MOST = 99  # largest target

SPLITS = {
    "in": "in distribution (+ and - reach the target)",
    "times": "out of distribution (only with x)",
    "more": "out of distribution (more numbers)",
    "larger": "out of distribution (larger targets)",
}


def values(answer: jax.Array) -> jax.Array:
    """i32[...]: values of expressions i32[..., 2 W - 1] from left to right, whose tokens are well-formed."""
    value = answer[..., 0]
    for i in range(1, answer.shape[-1], 2):
        operation, number = answer[..., i], answer[..., i + 1]
        changed = jnp.where(operation == MINUS, value - number, value * number)
        changed = jnp.where(operation == PLUS, value + number, changed)
        value = jnp.where(operation == BLANK, value, changed)
    return value


@cache
def _forms(counts: tuple[int, ...], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(order i32[M, W], operations i32[M, W - 1], numbers i32[M], bool[M] without x) of all expressions.

    Those of few numbers first, of these those without x; index W is no number.
    """
    rows = []
    for k in counts:
        operations = sorted(itertools.product((PLUS, MINUS, TIMES), repeat=k - 1), key=lambda o: TIMES in o)
        rest = width - k
        rows += [
            ((*order, *[width] * rest), (*o, *[BLANK] * rest), k, TIMES not in o)
            for o in operations
            for order in itertools.permutations(range(k))
        ]
    order, operations, used, without = zip(*rows, strict=True)
    return np.array(order, np.int32), np.array(operations, np.int32), np.array(used, np.int32), np.array(without)


@dataclass(frozen=True)
class Countdown(Task):
    """The task; hashable, so that it can be a static argument.

    Splits: `in` = some expression with + and - alone reaches the target; `times` = only one with x does; `more` = as
    `in` with W numbers (needs W > k); `larger` = as `in` with targets above `target` (needs one below 99). Law: uniform
    numbers, order and operations, given that the value is in 0..99 (in `in` and `more` at most `target`) and that the
    problem is of the split. The order in which the numbers are shown does not matter for what is held out.

    Attributes:
      numbers: k, how many are given.
      width: W >= k, for how many there is room; 0 means k.
      target: largest target in distribution.
      canonical: demonstrations show the first right expression in a fixed order, without x if there is one; otherwise
        one of all right ones with the same operations allowed, by a hash of the problem.
    """

    numbers: int = 3
    canonical: bool = True
    width: int = 0
    target: int = MOST

    split_names: ClassVar[Mapping[str, str]] = SPLITS

    def __post_init__(self) -> None:
        if self.width == 0:
            object.__setattr__(self, "width", self.numbers)
        require_range("numbers", self.numbers, 2, 4, "since all expressions are tried")
        require_range("width", self.width, self.numbers, 4, "since all expressions are tried")
        require_range("target", self.target, 0, MOST)

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that exist at this size."""
        exists = {"more": self.width > self.numbers, "larger": self.target < MOST}
        return tuple(s for s in SPLITS if exists.get(s, True))

    @property
    def mixed_splits(self) -> tuple[str, ...]:
        """All that are out of distribution: a base that has seen nothing of them answers nothing there."""
        return self.splits[1:]

    @property
    def prompt_vocabulary(self) -> int:
        """Ten digits and `=`; a blank, where there is one."""
        return EQUALS + 1 + (self.width > self.numbers)

    @property
    def vocabulary(self) -> int:
        """V: ten digits and three operations; a blank, where there is one."""
        return BLANK + (self.width > self.numbers)

    @property
    def length(self) -> int:
        """L = 2 W - 1."""
        return 2 * self.width - 1

    @property
    def prompt_length(self) -> int:
        """P = W + 3."""
        return self.width + 3

    def _reached(self, question: jax.Array, counts: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Expressions of so many numbers i32[n, M, L], which reach the target bool[n, M], which of these without x."""
        order, operations, used, without = _forms(counts, self.width)
        numbers = question[:, :-1]
        known = jnp.concatenate([numbers, jnp.full((len(question), 1), BLANK, jnp.int32)], axis=1)
        answers = jnp.zeros((len(question), len(order), self.length), jnp.int32)
        answers = answers.at[:, :, ::2].set(known[:, order]).at[:, :, 1::2].set(jnp.asarray(operations)[None])
        reached = (values(answers) == question[:, -1:]) & (used[None] == jnp.sum(numbers > 0, axis=1, keepdims=True))
        return answers, reached, reached & without[None]

    def belongs(self, question: jax.Array, split: str) -> jax.Array:
        """By what reaches the target, how many numbers there are, and how large it is."""
        used = self.width if split == "more" else self.numbers
        _, reached, easy = self._reached(question, (used,))  # drawing asks often, and four numbers make 648 of them
        without, target = jnp.any(easy, axis=1), question[:, -1]
        solved = without if split != "times" else ~without & jnp.any(reached, axis=1)
        least = self.target + 1 if split == "larger" else 0
        most = self.target if split in ("in", "more") else MOST
        return solved & (target >= least) & (target <= most) & (jnp.sum(question[:, :-1] > 0, axis=1) == used)

    def is_held_out(self, question: jax.Array) -> jax.Array:
        """bool[n]: whether a problem is kept for evaluation, in whatever order its numbers are shown."""
        in_order = jnp.concatenate([jnp.sort(question[:, :-1], axis=1), question[:, -1:]], axis=1)
        return hashed(in_order) % HELD_OUT_ONE_IN == 0

    def draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Numbers, 0 where there is none, and target i32[n, W + 1] of random expressions, the numbers in any order."""
        number_key, operation_key, order_key = jax.random.split(key, 3)
        used = self.width if split == "more" else self.numbers
        numbers = jax.random.randint(number_key, (n, used), 1, 10, dtype=jnp.int32)
        last = TIMES + (split == "times")
        operations = jax.random.randint(operation_key, (n, used - 1), PLUS, last, dtype=jnp.int32)
        expression = jnp.zeros((n, 2 * used - 1), jnp.int32).at[:, ::2].set(numbers).at[:, 1::2].set(operations)
        shown = jax.random.permutation(order_key, numbers, axis=1, independent=True)
        shown = jnp.pad(shown, ((0, 0), (0, self.width - used)))
        return jnp.concatenate([shown, values(expression)[:, None]], axis=1)

    def problems(self, question: jax.Array) -> Problems:
        """Prompts, and the answers that demonstrations show."""
        answers, reached, easy = self._reached(question, tuple(dict.fromkeys((self.numbers, self.width))))
        allowed = jnp.where(jnp.any(easy, axis=1, keepdims=True), easy, reached)
        place = jnp.broadcast_to(jnp.arange(allowed.shape[1], dtype=jnp.int32)[None], allowed.shape)
        rank = place.astype(jnp.uint32)
        if not self.canonical:  # a hash ranks the expressions of each problem anew, so that the least is a fair choice
            rows = jnp.broadcast_to(question[:, None], (*allowed.shape, self.width + 1))
            both = jnp.concatenate([rows, place[..., None]], axis=2)
            rank = hashed(both.reshape(-1, self.width + 2)).reshape(allowed.shape) >> 1
        chosen = jnp.argmin(jnp.where(allowed, rank, jnp.uint32(2**31)), axis=1)
        answer = jnp.take_along_axis(answers, chosen[:, None, None], axis=1)[:, 0]
        target, equals = question[:, -1], jnp.full((len(question), 1), EQUALS, jnp.int32)
        digits = jnp.stack([target // 10, target % 10], axis=1)
        numbers = jnp.where(question[:, :-1] > 0, question[:, :-1], NO_NUMBER)
        return Problems(jnp.concatenate([numbers, digits, equals], axis=1), answer)

    def score(self, answers: jax.Array, problems: Problems) -> jax.Array:
        """1 where an expression is well-formed, uses each number once and reaches the target."""
        shown = problems.prompt[:, : self.width]
        given = jnp.sort(jnp.where(shown == NO_NUMBER, BLANK, shown), axis=1)[:, None]
        target = 10 * problems.prompt[:, self.width] + problems.prompt[:, self.width + 1]
        numbers, operations = answers[..., ::2], answers[..., 1::2]
        # Slots of numbers that the problem has; blanks are in the others, and only there.
        here = (jnp.arange(self.width)[None] < jnp.sum(shown != NO_NUMBER, axis=1, keepdims=True))[:, None]
        uses = jnp.all(jnp.sort(numbers, axis=-1) == given, axis=-1) & jnp.all((numbers != BLANK) == here, axis=-1)
        known = (operations >= PLUS) & (operations <= TIMES)
        formed = jnp.all(jnp.where(here[..., 1:], known, operations == BLANK), axis=-1)
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
        words = f"{' '.join(str(x) for x in numbers if x != NO_NUMBER)} -> {10 * tens + ones}:"
        symbols = "" if answer is None else "".join(SYMBOLS[int(t)] for t in np.asarray(answer)).rstrip("_")
        return words if answer is None else f"{words} {symbols}"

"""What a task provides, and what tasks about two numbers share: held-out problems, sampling, verifier, corruption."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.errors import InputError, require

OPERATOR, EQUALS = 10, 11
HELD_OUT_ONE_IN = 16
EVALUATION_SEED = 20_260_101
MOST_EVALUATION_PROBLEMS = 1_000_000


class Problems(struct.PyTreeNode):
    """n problems with their right answers."""

    prompt: jax.Array  # i32[n, P]
    answer: jax.Array  # i32[n, L]


class Task(Protocol):
    """What training and evaluation use of a task; hashable, so that it can be a static argument.

    No problem of `training_problems` is ever one of `evaluation_problems`, whatever the splits.
    """

    split_names: ClassVar[Mapping[str, str]]
    """What each split is, in words for people; also splits that do not exist at this size."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist at this size; the first, `in`, is what training draws."""
        ...

    @property
    def prompt_vocabulary(self) -> int:
        """Number of prompt tokens."""
        ...

    @property
    def prompt_length(self) -> int:
        """P."""
        ...

    @property
    def vocabulary(self) -> int:
        """V, number of answer tokens."""
        ...

    @property
    def length(self) -> int:
        """L, tokens per answer."""
        ...

    def training_problems(self, key: jax.Array, n: int, split: str = "in") -> Problems:
        """N independent problems of the split, none of them held out; traceable."""
        ...

    def evaluation_problems(self, split: str, n: int) -> Problems:
        """N distinct held-out problems of the split, the same for every seed and run; InputError if it has fewer."""
        ...

    def score(self, answers: jax.Array, right_answer: jax.Array) -> jax.Array:
        """Verifier: f32[...] in [0, 1] of answers i32[..., L]; broadcasts over equal ranks."""
        ...

    def corrupt(self, key: jax.Array, answer_nxL: jax.Array) -> jax.Array:
        """Wrong answers that look like the given right ones, i32[n, L]."""
        ...

    def text(self, prompt: jax.Array, answer: jax.Array | None = None) -> str:
        """Readable form of one problem."""
        ...


def digit_hash(operands_nx2xW: jax.Array) -> jax.Array:
    """u32[n]: a hash of the digits, in their order."""
    h = jnp.full(operands_nx2xW.shape[0], 2_166_136_261, jnp.uint32)
    for digit in operands_nx2xW.reshape(operands_nx2xW.shape[0], -1).T.astype(jnp.uint32):
        h = (h ^ digit) * jnp.uint32(16_777_619)
    h = (h ^ (h >> 15)) * jnp.uint32(2_246_822_519)
    return h ^ (h >> 13)


@dataclass(frozen=True)
class TwoNumbers(ABC):
    """A task about two numbers of W digits each, most significant first: prompt `a ? b =`, answer digits.

    Attributes:
      digits: D >= 1, digits of the operands in distribution (leading zeros allowed).
      width: W >= D, digits written per operand; 0 means D. The split `longer` needs W > D.
    """

    digits: int
    width: int = 0

    split_names: ClassVar[Mapping[str, str]]
    symbol: ClassVar[str]

    def __post_init__(self) -> None:
        require(1 <= self.digits <= 64, "digits", self.digits, "1..64")
        if self.width == 0:
            object.__setattr__(self, "width", self.digits)
        require(self.digits <= self.width <= 64, "width", self.width, f"{self.digits}..64, or 0 for {self.digits}")

    @property
    def prompt_vocabulary(self) -> int:
        """Ten digits, the operator, `=`."""
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
    @abstractmethod
    def length(self) -> int:
        """L, digits of an answer."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that exist at this size, in distribution first."""

    @abstractmethod
    def _answer(self, a_nxW: jax.Array, b_nxW: jax.Array) -> jax.Array:
        """The right answers, i32[n, L]."""

    @abstractmethod
    def _belongs(self, operands_nx2xW: jax.Array, split: str) -> jax.Array:
        """bool[n]: whether a problem is of the split, which exists."""

    @abstractmethod
    def _draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Candidates i32[n, 2, W]: rejecting those that do not belong leaves the law of the split."""

    def is_held_out(self, operands_nx2xW: jax.Array) -> jax.Array:
        """bool[n]: whether a problem is kept for evaluation, by a hash of its digits (about one in 16).

        Training draws only problems that are not, evaluation only problems that are: disjoint by construction.
        """
        return digit_hash(operands_nx2xW) % HELD_OUT_ONE_IN == 0

    @partial(jax.jit, static_argnames="self")
    def problems(self, operands_nx2xW: jax.Array) -> Problems:
        """Prompts and answers of operand pairs."""
        a, b = operands_nx2xW[:, 0], operands_nx2xW[:, 1]
        operator, equals = (jnp.full((a.shape[0], 1), x, jnp.int32) for x in (OPERATOR, EQUALS))
        return Problems(prompt=jnp.concatenate([a, operator, b, equals], axis=-1), answer=self._answer(a, b))

    def belongs(self, operands_nx2xW: jax.Array, split: str) -> jax.Array:
        """bool[n]: whether a problem is of the split.

        Raises:
          InputError: for a split that does not exist at this size.
        """
        require(split in self.splits, "split", split, self.splits)
        return self._belongs(operands_nx2xW, split)

    @partial(jax.jit, static_argnames=("self", "n", "split"))
    def training_problems(self, key: jax.Array, n: int, split: str = "in") -> Problems:
        """N fresh problems of the split: its law, given that they are not held out (rejection sampling)."""

        def rejected(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            return ~jnp.all(state[2])

        def redraw(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            key, operands, accepted = state
            key, draw_key = jax.random.split(key)
            fresh = self._draw(draw_key, n, split)
            operands = jnp.where(accepted[:, None, None], operands, fresh)
            return key, operands, self.belongs(operands, split) & ~self.is_held_out(operands)

        start = (key, jnp.zeros((n, 2, self.width), jnp.int32), jnp.zeros(n, bool))
        return self.problems(jax.lax.while_loop(rejected, redraw, start)[1])

    @partial(jax.jit, static_argnames=("self", "n", "split"))
    def _candidates(self, key: jax.Array, n: int, split: str) -> tuple[jax.Array, jax.Array]:
        """(operands i32[n, 2, W], bool[n]: of the split and held out)."""
        operands = self._draw(key, n, split)
        return operands, self.belongs(operands, split) & self.is_held_out(operands)

    def evaluation_problems(self, split: str, n: int) -> Problems:
        """N distinct held-out problems in the order of fixed draws from the split; the same for every seed and run.

        Up to n = 64 fewer problems are the beginning of more; beyond, the draws come in rounds whose size grows with n.

        Raises:
          InputError: if the split has fewer held-out problems, or for more than a million.
        """
        require(n >= 1, "evaluation problems", n, "at least 1")
        require(split in self.splits, "split", split, self.splits)
        most, why = MOST_EVALUATION_PROBLEMS, "for the sake of memory"
        if 10 ** (2 * (self.digits + (split == "longer"))) <= most:
            most, why = int(_held_out(self, split)), f"held out in split {split!r} of {self}"
        require(n <= most, "evaluation problems", n, f"at most {most} ({why})")
        found = np.zeros((0, 2, self.width), np.int32)
        keys = jax.random.split(jax.random.key(EVALUATION_SEED + list(self.split_names).index(split)), 64)
        for key in keys:
            candidates, keep = (np.asarray(x) for x in self._candidates(key, max(64 * n, 4096), split))
            found = np.concatenate([found, candidates[keep]])
            _, first = np.unique(found.reshape(len(found), -1), axis=0, return_index=True)
            found = found[np.sort(first)]
            if len(found) >= n:
                return self.problems(jnp.asarray(found[:n]))
        raise InputError("evaluation problems", n, f"at most {len(found)} (found in split {split!r} of {self})")

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
        """Readable form, such as `046+938=`, and the answer's digits."""
        symbols = f"0123456789{self.symbol}="
        words = "".join(symbols[int(t)] for t in np.asarray(prompt))
        return words + ("" if answer is None else "".join(symbols[int(t)] for t in np.asarray(answer)))


@partial(jax.jit, static_argnames=("task", "split"))
def _held_out(task: TwoNumbers, split: str) -> jax.Array:
    """i32[]: the number of held-out problems of the split, counted over all pairs of numbers."""
    used = task.digits + (split == "longer")
    pair = jnp.arange(10 ** (2 * used), dtype=jnp.int32)
    digits = jnp.stack([pair // 10**place % 10 for place in reversed(range(2 * used))], axis=-1).reshape(-1, 2, used)
    operands = jnp.pad(digits, ((0, 0), (0, 0), (task.width - used, 0)))
    # Else the compiler works out for itself, slowly and with a warning, that a million leading zeros are zeros.
    operands = jax.lax.optimization_barrier(operands)
    return jnp.sum(task.belongs(operands, split) & task.is_held_out(operands), dtype=jnp.int32)

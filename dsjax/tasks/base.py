"""What a task is: problems, a verifier, splits, and problems held out of training; and tasks about two numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.config import require_int, require_range
from dsjax.errors import InputError, require

OPERATOR, EQUALS = 10, 11
HELD_OUT_ONE_IN = 16
EVALUATION_SEED = 20_260_101
MOST_EVALUATION_PROBLEMS = 1_000_000


class Problems(struct.PyTreeNode):
    """n problems, each with a right answer: the one that demonstrations show, where there are several."""

    prompt: jax.Array  # i32[n, P]
    answer: jax.Array  # i32[n, L]


class Steps(NamedTuple):
    """Intermediate answers that lead to the right one, a round each: what a chain demonstrates."""

    answers: jax.Array  # i32[n, K, L]; after the last step, copies of it
    last: jax.Array  # i32[n], index of the last step, whose answer is right


class Task(ABC):
    """Problems with answers of a fixed length that can be verified; hashable, since it is a static argument.

    A task needs its four sizes, `draw` and `problems`. A question is a row of integers that says which problem it is.
    About one question in 16, by a hash of it, is held out of training for evaluation: disjoint by construction,
    whatever the splits.

    Attributes:
      split_names: what each split is, in words for people; also splits that do not exist at this size. The first,
        `in`, is what training draws.
      mixed_split: the split of which training may mix in a share (`mixed_share` of the configuration); None: none.
      prompt_vocabulary: number of prompt tokens.
      prompt_length: P.
      vocabulary: V, number of answer tokens.
      length: L, tokens per answer.
    """

    split_names: ClassVar[Mapping[str, str]] = {"in": "in distribution"}
    mixed_split: ClassVar[str | None] = None
    prompt_vocabulary: int
    prompt_length: int
    vocabulary: int
    length: int

    @property
    def mixed_splits(self) -> tuple[str, ...]:
        """The splits of which training may mix in a share, in equal parts: here `mixed_split`, if there is one."""
        return () if self.mixed_split is None else (self.mixed_split,)

    @abstractmethod
    def draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Questions i32[n, ..]: rejecting those that do not belong leaves the law of the split; traceable."""

    @abstractmethod
    def problems(self, question: jax.Array) -> Problems:
        """Prompts and right answers of questions i32[n, ..]; traceable."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist at this size, in distribution first."""
        return tuple(self.split_names)

    def belongs(self, question: jax.Array, split: str) -> jax.Array:
        """bool[n]: whether a question is of the split, which exists."""
        del split
        return jnp.ones(question.shape[0], bool)

    def is_held_out(self, question: jax.Array) -> jax.Array:
        """bool[n]: whether a question is kept for evaluation."""
        return hashed(question) % HELD_OUT_ONE_IN == 0

    def held_out(self, split: str) -> int | None:
        """The number of held-out problems of the split, where they can be counted."""
        del split
        return None

    def score(self, answers: jax.Array, problems: Problems) -> jax.Array:
        """Verifier: f32[n, K] in [0, 1] of K answers i32[n, K, L] to each of n problems; a score above 1/2 is right.

        Here 1 where all tokens are those of the right answer. A task with several right answers has its own.
        """
        return jnp.all(answers == problems.answer[:, None, :], axis=-1).astype(jnp.float32)

    def steps(self, problems: Problems) -> Steps:
        """The chain of intermediate answers, if the task has one; traceable.

        Raises:
          InputError: if it has none.
        """
        del problems
        raise InputError("task", type(self).__name__, "a task with intermediate answers, such as prefix_sums")

    @property
    def has_steps(self) -> bool:
        """Whether there is a chain of intermediate answers."""
        return type(self).steps is not Task.steps

    def corrupt(self, key: jax.Array, answer_nxL: jax.Array) -> jax.Array:
        """Wrong answers that look like the given right ones: one token, at a uniform place, changed to another one."""
        place_key, shift_key = jax.random.split(key)
        n, L = answer_nxL.shape
        place = jax.nn.one_hot(jax.random.randint(place_key, (n,), 0, L), L, dtype=jnp.int32)
        shift = jax.random.randint(shift_key, (n, 1), 1, self.vocabulary, dtype=jnp.int32)
        return (answer_nxL + place * shift) % self.vocabulary

    def text(self, prompt: jax.Array, answer: jax.Array | None = None) -> str:
        """Readable form of one problem."""
        words = " ".join(str(int(t)) for t in np.asarray(prompt))
        return words if answer is None else f"{words} -> {' '.join(str(int(t)) for t in np.asarray(answer))}"

    @partial(jax.jit, static_argnames=("self", "n", "split"))
    def training_problems(self, key: jax.Array, n: int, split: str = "in") -> Problems:
        """N fresh problems of the split: its law, given that they are not held out (rejection sampling); traceable.

        Raises:
          InputError: for a split that does not exist at this size.
        """
        require(split in self.splits, "split", split, self.splits)
        require_int("problems", n, 0)
        like = jax.eval_shape(lambda k: self.draw(k, n, split), key)

        def rejected(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            return ~jnp.all(state[2])

        def redraw(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            key, question, accepted = state
            key, draw_key = jax.random.split(key)
            kept = accepted.reshape(n, *(1 for _ in like.shape[1:]))
            question = jnp.where(kept, question, self.draw(draw_key, n, split))
            return key, question, self.belongs(question, split) & ~self.is_held_out(question)

        start = (key, jnp.zeros(like.shape, like.dtype), jnp.zeros(n, bool))
        return self.problems(jax.lax.while_loop(rejected, redraw, start)[1])

    def evaluation_problems(self, split: str, n: int) -> Problems:
        """N distinct held-out problems in the order of fixed draws from the split; the same for every seed and run.

        Up to n = 64 fewer problems are the beginning of more; beyond, the draws come in rounds whose size grows with n.

        Raises:
          InputError: if the split does not exist or has fewer held-out problems, or for more than a million.
        """
        require_int("evaluation problems", n, 1)
        require(split in self.splits, "split", split, self.splits)
        most, why = self.held_out(split), f"held out in split {split!r} of {self}"
        if most is None:
            most, why = MOST_EVALUATION_PROBLEMS, "for the sake of memory"
        require(n <= most, "evaluation problems", n, f"at most {most} ({why})")
        like = jax.eval_shape(lambda: self.draw(jax.random.key(0), 0, split))
        found = np.zeros(like.shape, like.dtype)
        keys = jax.random.split(jax.random.key(EVALUATION_SEED + list(self.split_names).index(split)), 64)
        for key in keys:
            question, keep = (np.asarray(x) for x in self._candidates(key, max(64 * n, 4096), split))
            found = np.concatenate([found, question[keep]])
            _, first = np.unique(found.reshape(len(found), -1), axis=0, return_index=True)
            found = found[np.sort(first)]
            if len(found) >= n:
                return self._problems(jnp.asarray(found[:n]))
        raise InputError("evaluation problems", n, f"at most {len(found)} (found in split {split!r} of {self})")

    @partial(jax.jit, static_argnames="self")
    def _problems(self, question: jax.Array) -> Problems:
        """`problems`, compiled: its small steps are slow one by one."""
        return self.problems(question)

    @partial(jax.jit, static_argnames=("self", "n", "split"))
    def _candidates(self, key: jax.Array, n: int, split: str) -> tuple[jax.Array, jax.Array]:
        """(questions, bool[n]: of the split and held out)."""
        question = self.draw(key, n, split)
        return question, self.belongs(question, split) & self.is_held_out(question)


def hashed(question: jax.Array) -> jax.Array:
    """u32[n]: a hash of the numbers of each row, in their order."""
    h = jnp.full(question.shape[0], 2_166_136_261, jnp.uint32)
    for number in question.reshape(question.shape[0], -1).T.astype(jnp.uint32):
        h = (h ^ number) * jnp.uint32(16_777_619)
    h = (h ^ (h >> 15)) * jnp.uint32(2_246_822_519)
    return h ^ (h >> 13)


def require_digits(task: Any, most: int) -> None:
    """Check the `digits` and `width` of a task; a width of 0 becomes the digits.

    Raises:
      InputError: unless 1 <= digits <= width <= most.
    """
    require_range("digits", task.digits, 1, most)
    if task.width == 0 and not isinstance(task.width, bool):
        object.__setattr__(task, "width", task.digits)
    require_range("width", task.width, task.digits, most, f"or 0 for {task.digits}")


@dataclass(frozen=True)
class TwoNumbers(Task):
    """A task about two numbers of W digits each, most significant first: prompt `a ? b =`, answer digits.

    A question is the two numbers, i32[2, W].

    Attributes:
      digits: D >= 1, digits of the operands in distribution (leading zeros allowed).
      width: W >= D, digits written per operand; 0 means D. The split `longer` needs W > D.
    """

    digits: int
    width: int = 0

    mixed_split: ClassVar[str | None] = "longer"
    prompt_vocabulary: ClassVar[int] = 12  # ten digits, the operator, `=`
    vocabulary: ClassVar[int] = 10
    symbol: ClassVar[str]

    def __post_init__(self) -> None:
        require_digits(self, 64)

    @property
    def prompt_length(self) -> int:
        """P = 2 W + 2."""
        return 2 * self.width + 2

    @abstractmethod
    def _answer(self, a_nxW: jax.Array, b_nxW: jax.Array) -> jax.Array:
        """The right answers, i32[n, L]."""

    @partial(jax.jit, static_argnames="self")
    def problems(self, question: jax.Array) -> Problems:
        """Prompts and answers of operand pairs i32[n, 2, W]."""
        a, b = question[:, 0], question[:, 1]
        operator, equals = (jnp.full((a.shape[0], 1), x, jnp.int32) for x in (OPERATOR, EQUALS))
        return Problems(prompt=jnp.concatenate([a, operator, b, equals], axis=-1), answer=self._answer(a, b))

    def held_out(self, split: str) -> int | None:
        """The number of held-out problems, where there are at most a million pairs of numbers to count."""
        few = 10 ** (2 * (self.digits + (split == "longer"))) <= MOST_EVALUATION_PROBLEMS
        return int(_held_out(self, split)) if few else None

    def text(self, prompt: jax.Array, answer: jax.Array | None = None) -> str:
        """Readable form, such as `046+938=`, and the answer's digits."""
        symbols = f"0123456789{self.symbol}="
        tokens = [*np.asarray(prompt), *(() if answer is None else np.asarray(answer))]
        return "".join(symbols[int(t)] for t in tokens)


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

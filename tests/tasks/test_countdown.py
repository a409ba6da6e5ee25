"""Countdown's verifier and splits against expressions that Python evaluates."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.tasks import Countdown, Problems
from dsjax.tasks.countdown import SYMBOLS

TASK = Countdown()


def value(expression: str) -> int | None:
    """Python's value of `a?b?c..` from left to right; None if it is not well-formed."""
    numbers, operations = expression[::2], expression[1::2]
    if not (set(numbers) <= set("0123456789") and set(operations) <= set("+-x")):
        return None
    total = int(numbers[0])
    for operation, number in zip(operations, numbers[1:], strict=True):
        total = eval(f"({total}){operation.replace('x', '*')}{number}")
    return total


def right(numbers: tuple[int, ...], target: int, symbols: str = "+-x") -> set[str]:
    """All right answers, by trying all."""
    found = set()
    for order in itertools.permutations(numbers):
        for operations in itertools.product(symbols, repeat=len(numbers) - 1):
            text = "".join(f"{n}{o}" for n, o in zip(order, (*operations, ""), strict=True))
            if value(text) == target:
                found.add(text)
    return found


def tokens(text: str) -> list[int]:
    return [SYMBOLS.index(c) for c in text]


def asked(problems: Problems, i: int) -> tuple[tuple[int, ...], int]:
    *numbers, tens, ones, _ = np.asarray(problems.prompt[i]).tolist()
    return tuple(numbers), 10 * tens + ones


def test_the_verifier_accepts_what_python_accepts_and_nothing_else():
    rng = np.random.default_rng(0)
    problems = TASK.training_problems(jax.random.key(0), 30)
    some, most = [], 0
    for i in range(30):
        numbers, target = asked(problems, i)
        good = sorted(right(numbers, target))
        most = max(most, len(good))
        others = [tokens(text) for text in good] * 3
        # Any tokens at all, and answers that are nearly right: one token changed.
        junk = rng.integers(0, len(SYMBOLS), (20, TASK.length)).tolist()
        near = [[*row[:j], int(rng.integers(len(SYMBOLS))), *row[j + 1 :]] for row in others for j in range(5)]
        some.append([*others, *junk, *near][:400])
    assert most > 1  # several right answers
    width = max(map(len, some))
    answers = np.array([row + [row[0]] * (width - len(row)) for row in some], np.int32)
    score = np.asarray(TASK.score(jnp.asarray(answers), problems))
    assert 0.05 < score.mean() < 0.95
    for i in range(30):
        numbers, target = asked(problems, i)
        for answer, found in zip(answers[i], score[i], strict=True):
            text = "".join(SYMBOLS[t] for t in answer)
            uses = sorted(text[::2]) == sorted(map(str, numbers))
            assert found == (uses and value(text) == target), (numbers, target, text)


@pytest.mark.parametrize("split", ["in", "times"])
def test_splits_by_what_reaches_the_target(split):
    problems = TASK.training_problems(jax.random.key(1), 40, split)
    for i in range(40):
        numbers, target = asked(problems, i)
        assert 0 <= target <= 99
        assert bool(right(numbers, target, "+-")) == (split == "in")
        assert right(numbers, target)


WIDE = Countdown(2, width=3, target=9)


@pytest.mark.parametrize("split", WIDE.splits)
def test_splits_with_more_numbers_and_larger_targets(split):
    """With room for a third number: what Python says of each problem, and which answers the verifier takes."""
    problems = WIDE.training_problems(jax.random.key(4), 20, split)
    blank = len(SYMBOLS) - 1
    for i in range(20):
        *numbers, tens, ones, _ = np.asarray(problems.prompt[i]).tolist()
        numbers, target = tuple(x for x in numbers if x != 11), 10 * tens + ones
        easy = right(numbers, target, "+-")
        assert len(numbers) == (3 if split == "more" else 2)
        assert bool(easy) == (split != "times")
        assert right(numbers, target)
        assert split == "times" or (target > 9) == (split == "larger")
        shown = "".join(SYMBOLS[int(t)] for t in problems.answer[i]).rstrip("_")
        assert shown in (easy or right(numbers, target))
        good = tokens(shown) + [blank] * (WIDE.length - len(shown))
        # A number without a place, an operation without one, a blank in the middle, one answer too long.
        bad = [[*good[:-1], 1], [*good[:-2], 10, blank], [good[0], blank, *good[2:]], [*good[:3], 11, 1]]
        some = jnp.asarray([[good, *(row for row in bad if row != good)]], jnp.int32)
        one = Problems(problems.prompt[i : i + 1], problems.answer[i : i + 1])
        score = np.asarray(WIDE.score(some, one))[0]
        expected = [right_or_not("".join(SYMBOLS[t] for t in row), numbers, target) for row in some[0].tolist()]
        assert score.tolist() == expected
        assert expected[0] == 1.0


def right_or_not(text: str, numbers: tuple[int, ...], target: int) -> float:
    used = 2 * len(numbers) - 1
    return float(set(text[used:]) <= {"_"} and text[:used] in right(numbers, target))


def test_demonstrations_are_the_first_right_answer_or_a_fair_one():
    canonical = TASK.training_problems(jax.random.key(2), 300)
    fair = Countdown(canonical=False).training_problems(jax.random.key(2), 300)
    np.testing.assert_array_equal(canonical.prompt, fair.prompt)
    places, expected = [], []
    for i in range(300):
        numbers, target = asked(canonical, i)
        # Equal numbers make expressions that look alike: places are among different texts.
        good = sorted(right(numbers, target, "+-"))
        texts = ["".join(SYMBOLS[int(t)] for t in x.answer[i]) for x in (canonical, fair)]
        assert set(texts) <= set(good)
        if len(set(numbers)) == 3 and len(good) > 1:
            places.append(good.index(texts[1]) / (len(good) - 1))
            expected.append((len(good) + 1) / (12 * (len(good) - 1)))  # variance of a uniform place
    # The mean of uniform places, within four standard errors; the canonical answer would be at one end.
    assert abs(np.mean(places) - 0.5) < 4 * np.sqrt(np.sum(expected)) / len(places)


def test_what_is_held_out_does_not_depend_on_the_order_of_the_numbers():
    evaluation = TASK.evaluation_problems("in", 100)
    training = TASK.training_problems(jax.random.key(3), 2000)
    seen, trained = (
        {(tuple(sorted(numbers)), target) for numbers, target in (asked(x, i) for i in range(len(x.prompt)))}
        for x in (evaluation, training)
    )
    assert len(trained) > 500
    assert not seen & trained


def test_text_and_sizes():
    problems = TASK.problems(jnp.asarray([[3, 5, 8, 16]], jnp.int32))
    assert TASK.text(problems.prompt[0], problems.answer[0]) == "3 5 8 -> 16: 3+5+8"
    assert (Countdown(4).length, Countdown(4).prompt_length) == (7, 7)
    for numbers in (1, 5):
        with pytest.raises(InputError, match="numbers"):
            Countdown(numbers)

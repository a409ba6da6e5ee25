"""Multiplication: digits against Python integers, bands of lengths, their laws, held-out problems."""

from __future__ import annotations

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.tasks import Multiplication
from dsjax.tasks.base import EQUALS, OPERATOR
from dsjax.tasks.multiplication import lengths, multiply_digits
from tests.tasks.digits import as_operands, assert_problems_are, belongs, is_held_out, number, operands_of

TASK = Multiplication(digits=2, width=3)


def length_pairs(task: Multiplication, split: str) -> set[tuple[int, int]]:
    D = task.digits
    inside = set(itertools.product(range(1, D + 1), repeat=2))
    one_more = set(itertools.product(range(1, D + 2), repeat=2))
    return {"in": inside, "hard": {(D, D)}, "longer": one_more - inside}[split]


def in_split(task: Multiplication, split: str, a: int, b: int) -> bool:
    return (len(str(a)), len(str(b))) in length_pairs(task, split)


def all_pairs(task: Multiplication) -> tuple[list[tuple[int, int]], jax.Array]:
    pairs = [(a, b) for a in range(10**task.width) for b in range(10**task.width)]
    digits = np.asarray(pairs)[:, :, None] // 10 ** np.arange(task.width)[::-1] % 10
    return pairs, jnp.asarray(digits, jnp.int32)


def test_all_two_digit_products():
    pairs, operands = all_pairs(Multiplication(2))
    digits = jax.jit(multiply_digits)(operands[:, 0], operands[:, 1])
    assert digits.dtype == jnp.int32
    assert [number(row) for row in np.asarray(digits)] == [a * b for a, b in pairs]


@pytest.mark.parametrize("width", [1, 3, 10, 64])
def test_random_products_and_the_largest(width):
    operands = np.random.default_rng(width).integers(0, 10, (200, 2, width))
    operands[0] = 9  # the largest columns and carries
    operands[1] = 0
    operands[2:40, 1, : width // 2] = 0
    digits = np.asarray(jax.jit(multiply_digits)(*(jnp.asarray(operands[:, i], jnp.int32) for i in (0, 1))))
    assert digits.shape == (200, 2 * width)
    assert digits.min() >= 0
    assert digits.max() <= 9
    assert [number(row) for row in digits] == [number(a) * number(b) for a, b in operands]


def test_lengths_are_those_of_the_written_numbers():
    pairs, operands = all_pairs(Multiplication(2))
    assert lengths(operands).tolist() == [[len(str(a)), len(str(b))] for a, b in pairs]


@pytest.mark.parametrize("task", [Multiplication(1), Multiplication(1, 2), Multiplication(2)])
def test_splits_are_sets_of_pairs_of_lengths(task):
    pairs, operands = all_pairs(task)
    for split in task.splits:
        assert belongs(task, operands, split).tolist() == [in_split(task, split, a, b) for a, b in pairs]


@pytest.mark.parametrize("split", ["in", "hard", "longer"])
def test_problems_belong_to_their_split(split):
    for problems in (TASK.evaluation_problems(split, 80), TASK.training_problems(jax.random.key(0), 600, split)):
        pairs = operands_of(TASK, problems.prompt)
        assert {(len(str(a)), len(str(b))) for a, b in pairs} == length_pairs(TASK, split)
        assert [number(row) for row in np.asarray(problems.answer)] == [a * b for a, b in pairs]
        assert (np.asarray(problems.prompt[:, TASK.width]) == OPERATOR).all()
        assert (np.asarray(problems.prompt[:, -1]) == EQUALS).all()


def test_training_never_meets_evaluation_in_either_order_nor_through_another_split():
    evaluated = set()
    for split, n in (("in", 600), ("hard", 500), ("longer", 1000)):
        problems = TASK.evaluation_problems(split, n)
        assert bool(is_held_out(TASK, as_operands(TASK, problems.prompt)).all())
        assert len(set(operands_of(TASK, problems.prompt))) == n
        evaluated |= set(operands_of(TASK, problems.prompt))
    for split in TASK.splits:
        training = TASK.training_problems(jax.random.key(1), 4000, split)
        assert not bool(is_held_out(TASK, as_operands(TASK, training.prompt)).any())
        trained = set(operands_of(TASK, training.prompt))
        assert not trained & evaluated
        assert not {(b, a) for a, b in trained} & evaluated


@pytest.mark.parametrize("task", [Multiplication(1), Multiplication(1, 2), Multiplication(2)])
def test_about_one_problem_in_sixteen_is_held_out_together_with_its_mirror_image(task):
    pairs, operands = all_pairs(task)
    held = np.asarray(is_held_out(task, operands))
    np.testing.assert_array_equal(held, is_held_out(task, operands[:, ::-1]))
    # Mirror images count twice: standard deviation sqrt(2 n 15) / 16 of n / 16; six of them on either side.
    assert abs(held.sum() - len(pairs) / 16) < 6 * (2 * len(pairs) * 15) ** 0.5 / 16
    assert held.any()


@pytest.mark.parametrize("split", ["in", "hard", "longer"])
def test_lengths_are_drawn_evenly_and_numbers_evenly_within_a_length(split):
    n = 20_000
    operands = np.asarray(TASK.draw(jax.random.key(0), n, split))
    operands = operands[np.asarray(belongs(TASK, jnp.asarray(operands), split))]
    found = [(number(a), number(b)) for a, b in operands]
    counts = Counter((len(str(a)), len(str(b))) for a, b in found)
    share = 1 / len(length_pairs(TASK, split))
    assert set(counts) == length_pairs(TASK, split)
    # Six binomial standard deviations, here and below.
    assert all(abs(c - len(found) * share) <= 6 * (len(found) * share * (1 - share)) ** 0.5 for c in counts.values())
    for length in {l for pair in counts for l in pair}:  # noqa: E741
        numbers = [x for pair in found for x in pair if len(str(x)) == length]
        allowed = range(10 ** (length - 1) if length > 1 else 0, 10**length)
        expected = len(numbers) / len(allowed)
        drawn = np.bincount(numbers, minlength=10**length)[allowed.start :]
        assert len(drawn) == len(allowed)
        assert np.abs(drawn - expected).max() <= 6 * expected**0.5 + 6


# Another problem set is another experiment.
STORED = {
    "in": (
        ["002*058=000116", "001*003=000003", "000*007=000000"],
        ["007*014=000098", "005*026=000130", "006*090=000540"],
        ("7c3dcedd1ee792e1", "c9ce2670f4a63ba0"),
    ),
    "hard": (
        ["092*058=005336", "091*063=005733", "030*047=001410"],
        ["037*099=003663", "054*062=003348", "089*062=005518"],
        ("01487168592d34d5", "1cb0b8043df7ae09"),
    ),
    "longer": (
        ["007*820=005740", "019*389=007391", "310*047=014570"],
        ["068*237=016116", "895*245=219275", "027*676=018252"],
        ("3856c6b95d4eedc1", "5544b83209c6456f"),
    ),
}


@pytest.mark.parametrize("split", ["in", "hard", "longer"])
def test_the_problems_of_a_seed_never_change(split):
    assert_problems_are(TASK, split, *STORED[split])


def test_a_small_split_gives_all_it_has_and_no_draw_is_made_for_more(monkeypatch):
    pairs, operands = all_pairs(TASK)
    held = {p for p, h in zip(pairs, is_held_out(TASK, operands).tolist(), strict=True) if h}
    for split in TASK.splits:
        want = {(a, b) for a, b in held if in_split(TASK, split, a, b)}
        with monkeypatch.context() as m:
            m.setattr(Multiplication, "draw", None)
            for n in (len(want) + 1, 10**12):
                with pytest.raises(InputError, match=f"at most {len(want)} .held out in split '{split}'"):
                    TASK.evaluation_problems(split, n)
        if split != "longer":  # more of them than a test should draw
            assert set(operands_of(TASK, TASK.evaluation_problems(split, len(want)).prompt)) == want


def test_products_of_twenty_digits():
    task = Multiplication(9, 10)
    assert (task.prompt_length, task.length) == (22, 20)
    for split in task.splits:
        for problems in (task.evaluation_problems(split, 20), task.training_problems(jax.random.key(0), 20, split)):
            pairs = operands_of(task, problems.prompt)
            assert all(in_split(task, split, a, b) for a, b in pairs)
            assert [number(row) for row in np.asarray(problems.answer)] == [a * b for a, b in pairs]


def test_sizes_and_splits():
    assert Multiplication() == Multiplication(2, 2)
    assert Multiplication(1).splits == ("in",)
    assert Multiplication(1, 2).splits == ("in", "longer")
    assert Multiplication(2).splits == ("in", "hard")
    assert TASK.splits == ("in", "hard", "longer")
    assert (TASK.prompt_length, TASK.length, TASK.vocabulary, TASK.prompt_vocabulary) == (8, 6, 10, 12)


def test_text():
    problems = TASK.problems(jnp.asarray([[[0, 1, 2], [9, 3, 8]]], jnp.int32))
    assert TASK.text(problems.prompt[0]) == "012*938="
    assert TASK.text(problems.prompt[0], problems.answer[0]) == "012*938=011256"

"""Addition: digits and carries against Python integers, splits, held-out problems, verifier, corruption."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.tasks import Addition, Problems
from dsjax.tasks.addition import add_digits
from dsjax.tasks.base import EQUALS, OPERATOR
from tests.tasks.digits import as_operands, assert_problems_are, belongs, is_held_out, number, operands_of, spelled

TASK = Addition(digits=3, width=4)


def carry_chain(a: int, b: int, width: int) -> int:
    """Longest run of columns that carry out; column i carries iff the low i + 1 digits add up to 10^(i + 1)."""
    carries = "".join("c" if a % 10 ** (i + 1) + b % 10 ** (i + 1) >= 10 ** (i + 1) else " " for i in range(width))
    return max(map(len, carries.split()), default=0)


def test_all_two_digit_sums():
    pairs = list(itertools.product(range(100), repeat=2))
    a, b = (jnp.asarray([spelled(p[i], 2) for p in pairs], jnp.int32) for i in (0, 1))
    digits, chain = jax.jit(add_digits)(a, b)
    assert [number(row) for row in np.asarray(digits)] == [x + y for x, y in pairs]
    assert chain.tolist() == [carry_chain(x, y, 2) for x, y in pairs]


@pytest.mark.parametrize("width", [1, 5, 9])
def test_random_sums_and_chains(width):
    rng = np.random.default_rng(width)
    operands = rng.integers(0, 10, (500, 2, width))
    operands[:100, 1] = 9 - operands[:100, 0]  # columns that pass a carry on: long chains
    operands[:50, 1, -1] = 9
    digits, chain = jax.jit(add_digits)(*(jnp.asarray(operands[:, i], jnp.int32) for i in (0, 1)))
    want = [(number(a), number(b)) for a, b in operands]
    assert [number(row) for row in np.asarray(digits)] == [a + b for a, b in want]
    assert chain.tolist() == [carry_chain(a, b, width) for a, b in want]
    assert max(chain.tolist()) == width


def test_a_chain_ends_where_a_column_does_not_carry():
    a, b = (jnp.asarray([spelled(x, 4)], jnp.int32) for x in (5158, 6093))  # columns 1 and 2 carry, 3 does not, 4 does
    assert add_digits(a, b)[1].tolist() == [2]


def in_split(task: Addition, split: str, a: int, b: int) -> bool:
    D, chain = task.digits, carry_chain(a, b, task.width)
    if split == "longer":
        return min(a, b) >= 10**D and max(a, b) < 10 ** (D + 1) and chain <= 2
    return max(a, b) < 10**D and (chain >= 3 if split == "carry" else chain <= 2)


@pytest.mark.parametrize("split", ["in", "carry", "longer"])
def test_problems_belong_to_their_split_and_training_never_meets_evaluation(split):
    evaluation = TASK.evaluation_problems(split, 12)
    training = TASK.training_problems(jax.random.key(0), 600, split)
    for problems in (evaluation, training):
        pairs = operands_of(TASK, problems.prompt)
        assert all(in_split(TASK, split, a, b) for a, b in pairs)
        assert [number(row) for row in np.asarray(problems.answer)] == [a + b for a, b in pairs]
        assert (np.asarray(problems.prompt[:, TASK.width]) == OPERATOR).all()
        assert (np.asarray(problems.prompt[:, -1]) == EQUALS).all()
        assert bool(belongs(TASK, as_operands(TASK, problems.prompt), split).all())
    assert bool(is_held_out(TASK, as_operands(TASK, evaluation.prompt)).all())
    assert not bool(is_held_out(TASK, as_operands(TASK, training.prompt)).any())
    assert not set(operands_of(TASK, evaluation.prompt)) & set(operands_of(TASK, training.prompt))


def test_a_problem_is_in_at_most_one_split():
    rng = np.random.default_rng(0)
    operands = rng.integers(0, 10, (2000, 2, 4))
    operands[:1500, :, 0] = 0
    found = np.stack([np.asarray(belongs(TASK, jnp.asarray(operands, jnp.int32), s)) for s in TASK.splits])
    want = [[in_split(TASK, s, number(a), number(b)) for a, b in operands] for s in TASK.splits]
    np.testing.assert_array_equal(found, want)
    assert found.sum(0).max() == 1


def test_about_one_problem_in_sixteen_is_held_out():
    pairs = list(itertools.product(range(100), repeat=2))
    held = is_held_out(TASK, jnp.asarray([[spelled(a, 2), spelled(b, 2)] for a, b in pairs], jnp.int32))
    # Binomial(10 000, 1/16) has standard deviation 24; six of them on either side.
    assert abs(int(held.sum()) - 625) < 150


# Text of three problems, and digests of more, drawn in several rounds: another problem set is another experiment.
STORED = {
    "in": (
        ["0226+0517=00743", "0205+0624=00829", "0627+0006=00633"],
        ["0035+0349=00384", "0018+0367=00385", "0801+0481=01282"],
        ("e6db09f1c18ef09b", "a6127d3fdaf42c24"),
    ),
    "carry": (
        ["0894+0829=01723", "0784+0366=01150", "0577+0679=01256"],
        ["0878+0785=01663", "0737+0279=01016", "0569+0766=01335"],
        ("d72f3829a711418c", "74a14c6f6b7d33c5"),
    ),
    "longer": (
        ["2265+1720=03985", "5624+1513=07137", "1581+4141=05722"],
        ["4552+1031=05583", "8097+7542=15639", "9405+2240=11645"],
        ("3866daa3036ef7f6", "fc730eaad7a35fbb"),
    ),
}


@pytest.mark.parametrize("split", ["in", "carry", "longer"])
def test_the_problems_of_a_seed_never_change(split):
    assert_problems_are(TASK, split, *STORED[split])


def test_evaluation_sets_are_fixed_and_distinct():
    problems = TASK.evaluation_problems("in", 64)
    assert len(set(operands_of(TASK, problems.prompt))) == 64
    np.testing.assert_array_equal(TASK.evaluation_problems("in", 64).prompt, problems.prompt)
    np.testing.assert_array_equal(TASK.evaluation_problems("in", 12).prompt, problems.prompt[:12])


@pytest.mark.parametrize(("task", "split"), [(Addition(1), "in"), (Addition(3), "carry")])
def test_a_small_split_gives_all_it_has_and_no_draw_is_made_for_more(task, split, monkeypatch):
    D = task.digits
    pairs = np.asarray([spelled(x, 2 * D) for x in range(10 ** (2 * D))], np.int32).reshape(-1, 2, D)
    held = int((belongs(task, pairs, split) & is_held_out(task, jnp.asarray(pairs))).sum())
    if held < 100:
        assert len(set(operands_of(task, task.evaluation_problems(split, held).prompt))) == held
    monkeypatch.setattr(Addition, "draw", None)
    for n in (held + 1, 10**9, 10**30):
        with pytest.raises(InputError, match=f"at most {held} .held out in split '{split}'"):
            task.evaluation_problems(split, n)


def test_far_too_many_evaluation_problems_of_a_large_split(monkeypatch):
    monkeypatch.setattr(Addition, "draw", None)
    with pytest.raises(InputError, match="evaluation problems: received 1000001; allowed: at most 1000000 "):
        Addition(5).evaluation_problems("in", 1_000_001)


def test_training_problems_follow_their_key():
    draws = [np.asarray(TASK.training_problems(jax.random.key(k), 600, "in").prompt) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_sizes_and_splits():
    assert Addition(2).width == 2
    assert Addition(2).splits == ("in",)
    assert Addition(3).splits == ("in", "carry")
    assert Addition(2, 3).splits == ("in", "longer")
    assert TASK.splits == ("in", "carry", "longer")
    assert (TASK.prompt_length, TASK.length, TASK.vocabulary, TASK.prompt_vocabulary) == (10, 5, 10, 12)
    assert hash(Addition(3)) == hash(Addition(3, 3))


def test_corrupt_changes_exactly_one_digit():
    answer = jnp.asarray(np.random.default_rng(0).integers(0, 10, (4000, 5)), jnp.int32)
    wrong = np.asarray(TASK.corrupt(jax.random.key(0), answer))
    changed = wrong != np.asarray(answer)
    assert (changed.sum(1) == 1).all()
    assert wrong.min() >= 0
    assert wrong.max() <= 9
    # Places and shifts are uniform: counts within six binomial standard deviations.
    assert np.abs(changed.sum(0) - 800).max() < 6 * (4000 * 0.2 * 0.8) ** 0.5
    shift = ((wrong - np.asarray(answer)) % 10).sum(1)
    assert np.abs(np.bincount(shift, minlength=10)[1:] - 4000 / 9).max() < 6 * (4000 * 8 / 81) ** 0.5
    assert not TASK.score(jnp.asarray(wrong)[:, None], Problems(answer, answer)).any()


def test_score_needs_every_digit():
    right = jnp.asarray([[0, 1, 2]], jnp.int32)
    answers = jnp.asarray([[[0, 1, 2], [0, 1, 3], [1, 1, 2]]], jnp.int32)
    score = TASK.score(answers, Problems(right, right))
    assert score.tolist() == [[1.0, 0.0, 0.0]]
    assert score.dtype == jnp.float32


def test_text():
    problems = Addition(3).problems(jnp.asarray([[[0, 4, 6], [9, 3, 8]]], jnp.int32))
    assert Addition(3).text(problems.prompt[0]) == "046+938="
    assert Addition(3).text(problems.prompt[0], problems.answer[0]) == "046+938=0984"

"""What every task provides, tasks of one's own, and how a configuration names a task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.config import from_dict, to_dict
from dsjax.errors import InputError
from dsjax.tasks import TASKS, Addition, Countdown, Multiplication, PrefixSums, Problems, Task, make_task
from dsjax.training.config import TrainConfig


@dataclass(frozen=True)
class Parity(Task):
    """Whether a row of bits has an odd number of ones: four sizes and two functions, all else is the base's."""

    digits: int = 10
    vocabulary, prompt_vocabulary, length = 2, 2, 1

    @property
    def prompt_length(self) -> int:
        return self.digits

    def draw(self, key, n, split):
        return jax.random.randint(key, (n, self.digits), 0, 2)

    def problems(self, question):
        return Problems(question, jnp.sum(question, axis=1, keepdims=True) % 2)


def ten_bits() -> Task:
    return Parity()


def wrong(size):
    return Parity(size)


def nothing():
    return 3


class Late(Parity):
    split_names = {"late": "not what training draws"}  # noqa: RUF012


OWN = f"{__name__}:Parity"


@partial(jax.jit, static_argnums=0)
def right_and_wrong(task, problems):
    wrong = task.corrupt(jax.random.key(1), problems.answer)
    return task.score(jnp.stack([problems.answer, wrong], axis=1), problems)


@pytest.mark.parametrize(
    "task",
    [Addition(3, 4), Multiplication(2, 3), Countdown(2, width=3, target=9), PrefixSums(16, 20, 3), Parity()],
    ids=lambda t: type(t).__name__,
)
def test_what_every_task_provides(task):
    traces = []

    def new_problems(task, key):
        traces.append(task)
        return task.training_problems(key, 7)

    compiled = jax.jit(new_problems, static_argnums=0)
    problems = compiled(task, jax.random.key(0))
    assert compiled(type(task)(**vars(task)), jax.random.key(0)).prompt.shape == (7, task.prompt_length)
    assert len(traces) == 1  # equal tasks share a program
    for some in (problems, task.evaluation_problems("in", 7)):
        assert some.prompt.shape == (7, task.prompt_length)
        assert some.answer.shape == (7, task.length)
        assert int(some.prompt.max()) < task.prompt_vocabulary
        assert int(some.answer.max()) < task.vocabulary
        assert right_and_wrong(task, some).tolist() == [[1.0, 0.0]] * 7
        prompt, answer = np.asarray(some.prompt[0]), np.asarray(some.answer[0])
        assert task.text(prompt, answer).startswith(task.text(prompt))
    assert task.splits[0] == "in"
    assert set(task.splits) <= set(task.split_names)
    assert {*task.mixed_splits} <= {*task.splits}
    with pytest.raises(InputError, match="evaluation problems: received 0"):
        task.evaluation_problems("in", 0)
    for draw in (task.evaluation_problems, lambda split, n: task.training_problems(jax.random.key(0), n, split)):
        with pytest.raises(InputError, match=f"split: received 'typo'; allowed: {', '.join(task.splits)}"):
            draw("typo", 1)


def test_problems_of_an_own_task_are_held_out_and_right():
    task = Parity()
    evaluation, training = task.evaluation_problems("in", 40), task.training_problems(jax.random.key(0), 2000)
    for problems in (evaluation, training):
        np.testing.assert_array_equal(problems.answer[:, 0], np.asarray(problems.prompt).sum(1) % 2)
    evaluated, trained = ({tuple(row) for row in np.asarray(x.prompt)} for x in (evaluation, training))
    assert len(evaluated) == 40
    assert not evaluated & trained
    assert len(trained) > 700  # of some 960: what is not held out is drawn
    with pytest.raises(InputError, match=r"at most \d\d .found in split 'in'"):
        task.evaluation_problems("in", 200)


def test_tasks_of_the_same_size_share_no_program():
    addition, multiplication = Addition(2, 3), Multiplication(2, 3)
    assert addition != multiplication
    answers = [t.training_problems(jax.random.key(0), 5).answer.shape for t in (addition, multiplication)]
    assert answers == [(5, 4), (5, 6)]


@pytest.mark.parametrize("task", [Addition, Multiplication])
@pytest.mark.parametrize("sizes", [(0,), (-1,), (65,), (3, 2)])
def test_bad_sizes(task, sizes):
    with pytest.raises(InputError, match="width" if len(sizes) == 2 else "digits"):
        task(*sizes)


@pytest.mark.parametrize(
    ("task", "missing"), [(Addition(2), ("carry", "longer")), (Multiplication(1), ("hard", "longer", "carry"))]
)
def test_splits_that_do_not_exist_at_this_size(task, missing):
    for split in missing:
        for call in (task.evaluation_problems, lambda s, n: task.training_problems(jax.random.key(0), n, s)):
            with pytest.raises(InputError, match=r"split.*allowed: in(\n|$)"):
                call(split, 1)


def test_tasks_by_name():
    assert make_task("addition", 3, 0) == TrainConfig().task_of == Addition(3)
    assert make_task("multiplication", 2, 3) == Multiplication(2, 3)
    assert TrainConfig(task="countdown", numbers=2).task_of == Countdown(2)
    assert TrainConfig(task="prefix_sums", digits=16, modulus=10).task_of == PrefixSums(16, modulus=10)
    assert make_task(OWN, 6, 0) == Parity(6)  # it takes digits
    assert make_task(f"{__name__}:ten_bits", 6, 0) == Parity()
    config = TrainConfig(task=OWN, digits=6)
    assert (config.task_of, config.policy.length) == (Parity(6), 1)
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("division", ", ".join([*TASKS, "module:function"])),
        ("tests.tasks.nowhere:f", "can be imported"),
        (f"{__name__}:nowhere", "can be imported"),
        (f"{__name__}:OWN", "names a callable"),
        (
            f"{__name__}:wrong",
            "a function of some of digits, width, modulus, numbers, canonical, target, or of nothing",
        ),
        (f"{__name__}:nothing", "returns a Task, not int"),
    ],
)
def test_a_name_that_is_no_task(name, allowed):
    with pytest.raises(InputError, match="task") as error:
        TrainConfig(task=name)
    assert (error.value.field, error.value.received) == ("task", name)
    assert allowed in error.value.allowed


def test_the_first_split_is_the_one_trained_on():
    with pytest.raises(InputError, match="splits of the task"):
        TrainConfig(task=f"{__name__}:Late")


def test_only_a_task_that_has_one_mixes_a_split_in():
    assert TrainConfig(digits=1, width=2, mixed_share=0.25).setting.mixed_share == 0.25
    fields: Any
    for fields in ({"task": OWN}, {"digits": 2}):  # there is none, or not at this size
        with pytest.raises(InputError, match=r"mixed_share: received 0\.25"):
            TrainConfig(**fields, mixed_share=0.25)


def test_older_files_say_operation_and_longer_share():
    older = {"operation": "multiplication", "digits": 1, "width": 2, "longer_share": 0.25}
    assert from_dict(TrainConfig, older) == TrainConfig(task="multiplication", digits=1, width=2, mixed_share=0.25)
    # What is said later holds, by either name.
    assert from_dict(TrainConfig, {**to_dict(TrainConfig()), "operation": "multiplication"}).task == "multiplication"

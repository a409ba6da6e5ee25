"""Tasks: prompts, verifier, splits. A new one is a class and a line of `TASKS`, or a user's own `module:function`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import jax
import numpy as np

from dsjax.config import require_int
from dsjax.errors import InputError, require
from dsjax.io import require_name
from dsjax.own import call, guarded, import_function
from dsjax.tasks.addition import Addition
from dsjax.tasks.base import Problems, Steps, Task, TwoNumbers
from dsjax.tasks.countdown import Countdown
from dsjax.tasks.multiplication import Multiplication
from dsjax.tasks.prefix_sums import PrefixSums

TASKS: dict[str, Callable[..., Task]] = {
    "addition": Addition,
    "multiplication": Multiplication,
    "countdown": Countdown,
    "prefix_sums": PrefixSums,
}


@functools.cache
def make_task(
    name: str,
    digits: int,
    width: int,
    modulus: int = 2,
    numbers: int = 3,
    canonical: bool = True,
    target: int = 99,
) -> Task:
    """The task of that name, or what a user's own `module:function` returns.

    Args:
      name: a key of `TASKS`, or `module:function`: a function (or class) of some of the sizes below, or of nothing.
      digits: of the configuration, for functions that take it; so are the others.
      width: digits that there is room for.
      modulus: of sums.
      numbers: given in a problem.
      canonical: whether demonstrations show the first right answer, or any one.
      target: largest target in distribution.

    Raises:
      InputError: for an unknown name, a function with other arguments, or one that returns no `Task`.
    """
    if ":" in name:
        function = import_function("task", name)
    else:
        require(name in TASKS, "task", name, [*TASKS, "module:function"])
        function = TASKS[name]
    sizes = {"digits": digits, "width": width, "modulus": modulus, "numbers": numbers}
    sizes |= {"canonical": canonical, "target": target}
    try:
        signature = inspect.signature(function)
        given = {size: value for size, value in sizes.items() if size in signature.parameters}
        signature.bind(**given)
    except (TypeError, ValueError) as error:
        raise InputError("task", name, f"a function of some of {', '.join(sizes)}, or of nothing ({error})") from error
    task = call("task", name, function, **given)
    require(isinstance(task, Task), "task", name, f"a function that returns a Task, not {type(task).__name__}")
    require(task.splits[:1] == ("in",), "splits of the task", task.splits, "`in` first: what training draws")
    if ":" in name:
        _require_sound(name, task)
    return task


def _require_sound(name: str, task: Task) -> None:
    """Ask a user's own task about a few problems, before any work.

    Raises:
      InputError: if it raises, or its problems or scores are not what `Task` says.
    """
    for split in task.splits:
        require_name(f"split of the task {name}", split)
    for size, least in (("prompt_vocabulary", 1), ("prompt_length", 1), ("vocabulary", 2), ("length", 1)):
        require_int(f"{size} of the task {name}", getattr(task, size, None), least)
    n = 4

    def asked() -> tuple[jax.Array, ...]:
        problems = task.problems(task.draw(jax.random.key(0), n, "in"))
        return problems.prompt, problems.answer, task.score(problems.answer[:, None, :], problems)

    with guarded("task", name, "a task whose draw, problems and score run, traced by JAX"):
        prompt, answer, score = (np.asarray(x) for x in jax.jit(asked)())
    for what, x, length, symbols in (
        ("prompts", prompt, task.prompt_length, task.prompt_vocabulary),
        ("answers", answer, task.length, task.vocabulary),
    ):
        fits = x.dtype.kind in "iu" and x.shape == (n, length)
        require(fits, f"{what} of the task {name}", f"{x.dtype} of shape {x.shape}", f"integers of shape {(n, length)}")
        there = (x >= 0) & (x < symbols)
        require(bool(there.all()), f"{what} of the task {name}", x[~there][:1].tolist(), f"tokens of 0..{symbols - 1}")
    require(score.shape == (n, 1), f"score of the task {name}", f"shape {score.shape}", f"[n, K] = {(n, 1)}")
    inside = (score >= 0) & (score <= 1)
    require(bool(inside.all()), f"score of the task {name}", score[~inside][:1].tolist(), "numbers of [0, 1]")
    right = bool((score > 0.5).all())
    require(right, f"score of the task {name}", score.ravel().tolist(), "above 1/2 for the task's own right answers")


__all__ = [
    "TASKS",
    "Addition",
    "Countdown",
    "Multiplication",
    "PrefixSums",
    "Problems",
    "Steps",
    "Task",
    "TwoNumbers",
    "make_task",
]

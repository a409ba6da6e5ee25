"""Tasks: prompts, verifier, splits. A new one is a class and a line of `TASKS`, or a user's own `module:function`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from dsjax.config import import_function
from dsjax.errors import InputError, require
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
def make_task(name: str, digits: int, width: int, modulus: int = 2, numbers: int = 3) -> Task:
    """The task of that name, or what a user's own `module:function` returns.

    Args:
      name: a key of `TASKS`, or `module:function`: a function (or class) of some of the sizes below, or of nothing.
      digits: of the configuration, for functions that take it; so are the others.
      width: digits that there is room for.
      modulus: of sums.
      numbers: given in a problem.

    Raises:
      InputError: for an unknown name, a function with other arguments, or one that returns no `Task`.
    """
    if ":" in name:
        function = import_function("task", name)
    else:
        require(name in TASKS, "task", name, [*TASKS, "module:function"])
        function = TASKS[name]
    sizes = {"digits": digits, "width": width, "modulus": modulus, "numbers": numbers}
    try:
        signature = inspect.signature(function)
        given = {size: value for size, value in sizes.items() if size in signature.parameters}
        signature.bind(**given)
    except (TypeError, ValueError) as error:
        raise InputError("task", name, f"a function of some of {', '.join(sizes)}, or of nothing ({error})") from error
    task = function(**given)
    require(isinstance(task, Task), "task", name, f"a function that returns a Task, not {type(task).__name__}")
    require(task.splits[:1] == ("in",), "splits of the task", task.splits, "`in` first: what training draws")
    return task


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

"""Tasks: prompts, verifier, splits. A new one is a class and a line of `TASKS`, or a user's own `module:function`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from dsjax.config import import_function
from dsjax.errors import InputError, require
from dsjax.tasks.addition import Addition
from dsjax.tasks.base import Problems, Task, TwoNumbers
from dsjax.tasks.multiplication import Multiplication

TASKS: dict[str, Callable[..., Task]] = {
    "addition": Addition,
    "multiplication": Multiplication,
}


@functools.cache
def make_task(name: str, digits: int, width: int) -> Task:
    """The task of that name, or what a user's own `module:function` returns.

    Args:
      name: a key of `TASKS`, or `module:function`: a function (or class) of digits and width, of one of them, or of
        nothing.
      digits: of the configuration, for functions that take it.
      width: of the configuration, for functions that take it.

    Raises:
      InputError: for an unknown name, a function with other arguments, or one that returns no `Task`.
    """
    if ":" in name:
        function = import_function("task", name)
    else:
        require(name in TASKS, "task", name, [*TASKS, "module:function"])
        function = TASKS[name]
    sizes = {"digits": digits, "width": width}
    try:
        signature = inspect.signature(function)
        given = {size: value for size, value in sizes.items() if size in signature.parameters}
        signature.bind(**given)
    except (TypeError, ValueError) as error:
        raise InputError("task", name, f"a function of digits and width, or of nothing ({error})") from error
    task = function(**given)
    require(isinstance(task, Task), "task", name, f"a function that returns a Task, not {type(task).__name__}")
    require(task.splits[:1] == ("in",), "splits of the task", task.splits, "`in` first: what training draws")
    return task


__all__ = ["TASKS", "Addition", "Multiplication", "Problems", "Task", "TwoNumbers", "make_task"]

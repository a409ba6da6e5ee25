"""Tasks: prompts, verifier, splits."""

from typing import Literal

from dsjax.tasks.addition import AdditionTask
from dsjax.tasks.base import Problems, Task
from dsjax.tasks.multiplication import MultiplicationTask

Operation = Literal["addition", "multiplication"]
TASKS: dict[str, type[AdditionTask] | type[MultiplicationTask]] = {
    "addition": AdditionTask,
    "multiplication": MultiplicationTask,
}

__all__ = ["TASKS", "AdditionTask", "MultiplicationTask", "Operation", "Problems", "Task"]

"""Tasks: prompts, verifier, splits."""

from dsjax.tasks.addition import AdditionTask, Problems

__all__ = ["AdditionTask", "Problems"]

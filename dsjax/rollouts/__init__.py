"""Rollouts of any framework: their file format, and what an objective does to them.

The diagnosis is loaded when it is first used: `arrays`, `reader` and `layout` need no JAX, so that a trainer without it
can write files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsjax.rollouts.diagnosis import Diagnosis, attribute_rollouts

__all__ = ["Diagnosis", "attribute_rollouts"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dsjax.rollouts' has no attribute {name!r}")
    from dsjax.rollouts import diagnosis

    return getattr(diagnosis, name)

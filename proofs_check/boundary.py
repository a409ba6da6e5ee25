"""Where a statement stops holding: what a boundary is to the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Boundary:
    """A region in which a statement holds, measured with the library and, where there is one, in closed form.

    Attributes:
      theorem: id of the theorem.
      title: what is mapped.
      measure: the numbers, as JSON types (lists, floats, strings); `summary` (str) says in one or two sentences what
        they show, and `worst_error` (float or None) compares the closed form with the measured boundary.
      draw: puts those numbers on an empty figure.
    """

    theorem: str
    title: str
    measure: Callable[[], dict[str, Any]]
    draw: Callable[[dict[str, Any], Figure], None]

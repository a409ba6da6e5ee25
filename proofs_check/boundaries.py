"""Where statements stop holding: maps measured with the library, next to the closed form where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from proofs_check.registry import parts
from proofs_check.statement import STATEMENTS
from proofs_check.theorems import FOLDERS


@dataclass(frozen=True)
class Boundary:
    """A region in which a statement holds, measured with the library and, where there is one, in closed form.

    What a theorem's module `boundary` defines: TITLE, measure and draw.

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


_IDS = dict(zip(FOLDERS, STATEMENTS, strict=True))
BOUNDARIES: tuple[Boundary, ...] = tuple(
    Boundary(_IDS[m.__name__.rpartition(".")[0]], m.TITLE, m.measure, m.draw) for m in parts("boundary")
)

"""Where statements stop holding: maps measured with the library, next to the closed form where there is one."""

from __future__ import annotations

from proofs_check.boundary import Boundary
from proofs_check.registry import parts

BOUNDARIES: tuple[Boundary, ...] = tuple(module.BOUNDARY for module in parts("boundary"))

__all__ = ["BOUNDARIES", "Boundary"]

"""Where statements stop holding: maps measured with the library, next to the closed form where there is one."""

from __future__ import annotations

from proofs_check.boundaries import (
    t07_kl_tax,
    t11_soft_optimum,
    t13_length_normalised,
    t14_signal_noise,
    t15_clipping,
)
from proofs_check.boundaries.boundary import Boundary

_MODULES = (t07_kl_tax, t11_soft_optimum, t13_length_normalised, t14_signal_noise, t15_clipping)

BOUNDARIES: tuple[Boundary, ...] = tuple(module.BOUNDARY for module in _MODULES)

__all__ = ["BOUNDARIES", "Boundary"]

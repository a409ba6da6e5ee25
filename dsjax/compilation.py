"""Compiling programs that run a few times: there XLA's optimisation costs more than it saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# A third to a quarter of the compile time, two to three times the run time.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}


def compile_quickly(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The executable of `function` for arguments of these shapes, without the backend's optimisation."""
    lowered = jax.jit(function).lower(*arguments)
    try:
        return lowered.compile(compiler_options=dict(QUICK))
    except jax.errors.JaxRuntimeError:  # an XLA that does not know an option; a real error comes again
        return lowered.compile()

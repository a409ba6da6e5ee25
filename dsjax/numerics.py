"""Compiling programs that run a few times: there XLA's optimisation costs more than it saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# A quarter to a fifth of the compile time, two to three times the run time. One part: splitting a small program over
# LLVM's threads costs a fifth of its compilation.
QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": "1",
}


def compile_quickly(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The executable of `function` for arguments of these shapes, without the backend's optimisation."""
    lowered = jax.jit(function).lower(*arguments)
    try:
        return lowered.compile(compiler_options=dict(QUICK))
    except jax.errors.JaxRuntimeError:  # an XLA that does not know an option; a real error comes again
        return lowered.compile()

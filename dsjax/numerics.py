"""Numerics that every part shares: the exact scope, division where there is something to divide by, quick compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# A quarter to a fifth of the compile time, two to three times the run time. One part: splitting a small program over
# LLVM's threads costs a fifth of its compilation.
QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": "1",
}


@contextmanager
def exact() -> Iterator[None]:
    """The scope of exact work: float64, on the CPU. It is one thread's; no JAX setting changes outside of it."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


def divide(part: Any, whole: Any, otherwise: float = 0.0) -> Any:
    """part / whole where whole > 0, else `otherwise`; no division by 0, and no NaN in a gradient (double-where).

    Elementwise, for NumPy and JAX arrays alike; the shapes must broadcast without rank promotion.
    """
    xp = jnp if isinstance(whole, jax.Array) else np  # scalars of NumPy 2.0 name no namespace
    positive = whole > 0
    return xp.where(positive, part / xp.where(positive, whole, 1.0), otherwise)


@cache
def quick_options() -> dict[str, str | bool]:
    """Those of `QUICK` that this compiler knows; it refuses a program for an option that it does not."""
    trivial = jax.jit(lambda: 0).lower()

    def known(name: str) -> bool:
        try:
            trivial.compile(compiler_options={name: QUICK[name]})
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in QUICK.items() if known(name)}


def compile_quickly(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The executable of `function` for arguments of these shapes, without the backend's optimisation."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=quick_options())

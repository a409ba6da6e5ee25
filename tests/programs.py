"""Training programs with something else in the place of a part, such as the slowest to compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import dsjax.training.run as runs

GRADIENT = {"share": 0.25, "norm_sample": 1.0, "norm_decision": 0.5, "cosine": 0.0}
GRADIENT |= {"signal_sample": 1.0, "noise_sample": 2.0, "signal_decision": 1.0, "noise_decision": 4.0}


def own_programs() -> Callable[..., Any]:
    """What keeps the programs of a process, empty."""
    return functools.cache(runs.Program)


def with_parts(patch: pytest.MonkeyPatch, kept: Callable[..., Any] | None = None, **parts: Any) -> None:
    """Let runs make their programs of these parts of `dsjax.training.run`, apart from all programs of others.

    Args:
      patch: undoes it.
      kept: of `own_programs`, for several tests with the same parts.
      parts: by name.
    """
    for name, part in parts.items():
        patch.setattr(runs, name, part)
    patch.setattr(runs, "_program", kept or own_programs())


def same_gradient(*_: Any) -> Any:
    """In the place of `make_gradient_measure`: numbers of every kind that a report asks for."""
    return lambda state, base_params: GRADIENT

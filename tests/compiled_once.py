"""Training programs shared between the runs of a test: each would otherwise trace and compile its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest


def _key(value: Any) -> Any:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its results kept by their arguments."""
    kept: dict[Any, Any] = {}

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        key = (*map(_key, args), *((name, _key(v)) for name, v in sorted(options.items())))
        if key not in kept:
            kept[key] = function(*args, **options)
        return kept[key]

    return wrapped


def share_programs(patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Let these modules make each training program once; same arguments, same program, so nothing else changes."""
    shared: dict[str, Callable[..., Any]] = {}
    for name in ("resolve", "adam", "make_train_steps", "make_gradient_measure"):
        for module in modules:
            if hasattr(module, name):
                shared.setdefault(name, once(getattr(module, name)))
                patch.setattr(module, name, shared[name])

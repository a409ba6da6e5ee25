"""Objectives: pure functions `(logp_BxS, Trajectories, **options) -> (sum, count)`; the loss is sum / count."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from dsjax.errors import InputError, require
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.kl import own_token_kl, reward_with_kl
from dsjax.objectives.supervised import sft
from dsjax.objectives.surrogate import grpo, reinforce, rloo, trajectory_kl
from dsjax.trajectories import Trajectories

Objective = Callable[[jax.Array, Trajectories], SumCount]

OBJECTIVES: dict[str, Callable[..., SumCount]] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "sft": sft,
    "own_token_kl": own_token_kl,
    "trajectory_kl": trajectory_kl,
}


def import_function(field: str, name: str) -> Callable[..., Any]:
    """The callable that `module:function` names.

    Raises:
      InputError: if the module cannot be found or has no such callable.
    """
    module_name, _, function_name = name.partition(":")
    require(not module_name.startswith("."), field, name, "module:function with the module's full name")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise InputError(field, name, f"module:function that can be imported ({error})") from error
    require(callable(function), field, name, "module:function that names a callable")
    return function


def resolve(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of that name, or a user's own `module:function`, with its options bound.

    Raises:
      InputError: for a name that is neither.
    """
    if ":" in name:
        function = import_function("objective", name)
    else:
        require(name in OBJECTIVES, "objective", name, [*OBJECTIVES, "module:function"])
        function = OBJECTIVES[name]
    return partial(function, **(options or {}))


__all__ = [
    "OBJECTIVES",
    "Objective",
    "SumCount",
    "grpo",
    "import_function",
    "own_token_kl",
    "reinforce",
    "resolve",
    "reward_with_kl",
    "rloo",
    "sft",
    "trajectory_kl",
]

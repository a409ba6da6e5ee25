"""Objectives by name: registration with options and atlas rows beside the function, and the way back from a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import jax

from dsjax.errors import require
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.options import require_limits
from dsjax.own import import_function
from dsjax.trajectories import Trajectories

Objective = Callable[[jax.Array, Trajectories], SumCount]
Function = TypeVar("Function", bound=Callable[..., SumCount])


@dataclass(frozen=True)
class Entry:
    """One row of the atlas: an objective, its options, and what it learns from.

    Attributes:
      objective: name in the registry, `module:function`, or a function.
      options: of the objective.
      demonstrations: it sees demonstrations instead of the policy's own trajectories.
      on_policy: the row with the same coefficients on-policy, where all of the atlas is: it is not computed again.
    """

    objective: str | Objective
    options: Mapping[str, Any] = field(default_factory=dict)
    demonstrations: bool = False
    on_policy: str | None = None


OBJECTIVES: dict[str, Callable[..., SumCount]] = {}
ROWS: dict[str, Entry] = {}  # of the atlas, in its order


def register(
    name: str,
    atlas: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    demonstrations: bool = False,
    on_policy: str | None = None,
) -> Callable[[Function], Function]:
    """Decorator: the function `(logp_BxS, Trajectories, **options) -> (sum, count)` is known by `name` from now on.

    Args:
      name: for `resolve`, `dsjax attribute`, `dsjax atlas` and the arms of a study.
      atlas: its rows in the atlas, {label: options}.
      demonstrations: the rows show it demonstrations instead of the policy's own trajectories.
      on_policy: an earlier row whose coefficients are equal at ratio 1, on any batch.

    Raises:
      InputError: for a name or a row that is taken, or an option that the function does not have.
    """

    def add(function: Function) -> Function:
        require(name not in OBJECTIVES and ":" not in name, "objective", name, f"a new name, not {sorted(OBJECTIVES)}")
        rows = {label: Entry(name, options, demonstrations, on_policy) for label, options in (atlas or {}).items()}
        for label, entry in rows.items():
            require(label not in ROWS, "row of the atlas", label, f"a new name, not {sorted(ROWS)}")
            require(on_policy is None or on_policy in ROWS, "on_policy", on_policy, sorted(ROWS))
            resolve(function, entry.options)
        ROWS.update(rows)
        OBJECTIVES[name] = function
        return function

    return add


def defaults(function: Callable[..., Any]) -> dict[str, Any] | None:
    """{option: default} of an objective; None where it takes any option or does not tell."""
    try:
        _, _, *options = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in callables do not tell; others take (*args, **kwargs)
        return None
    if any(p.kind is p.VAR_KEYWORD for p in options):
        return None
    return {p.name: p.default for p in options if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def is_own(objective: Any) -> bool:
    """Whether the function behind an objective is a user's, not of this library."""
    return not (getattr(innermost(objective), "__module__", None) or "").startswith("dsjax.")


def innermost(objective: Any) -> Any:
    """The function behind an objective."""
    while isinstance(objective, partial):
        objective = objective.func
    return objective


def name_of(objective: str | Callable[..., Any]) -> str:
    """A name for people: of the registry, `module:function`, or that of the function itself."""
    return objective if isinstance(objective, str) else getattr(objective, "__name__", repr(objective))


def resolve(objective: str | Callable[..., SumCount], options: Mapping[str, Any] | None = None, /, **more) -> Objective:
    """The objective of that name, or a user's own, with its options bound: `resolve("grpo", clip=0.1)`.

    Args:
      objective: a registered name, `module:function`, or a function.
      options: of the objective.
      **more: the same, as keywords.

    Raises:
      InputError: for a name that is neither, for an option that the function does not take, or for a value that an
        option of this library cannot have (`options.LIMITS`).
    """
    if not isinstance(objective, str):
        function = objective
    elif ":" in objective:
        function = import_function("objective", objective)
    else:
        require(objective in OBJECTIVES, "objective", objective, [*OBJECTIVES, "module:function"])
        function = OBJECTIVES[objective]
    options = {**(options or {}), **more}
    if options and (known := defaults(function)) is not None:
        for option in options:
            require(option in known, f"option of objective {name_of(objective)}", option, known or "no option at all")
    if not is_own(function):
        require_limits(name_of(objective), options)
    return partial(function, **options)

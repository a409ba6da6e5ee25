"""An objective that takes a trainer's advantages in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from dsjax.objectives.advantages import ADVANTAGES
from dsjax.objectives.registry import Objective, defaults


def advantage_option(function: Objective, options: Mapping[str, Any]) -> str | None:
    """The option of an objective that takes advantages; None where it has none, or the user gave it."""
    known = defaults(function) or {}
    option = next((o for o in ("advantage", "baseline") if o in known), None)
    return None if option in options else option


def with_advantage(function: Objective, advantage: jax.Array, options: Mapping[str, Any]) -> Objective | None:
    """The objective with these advantages bound, and without what its own advantage's options would do to them.

    Args:
      function: with its options bound.
      advantage: f[B] or f[B, S]; may be traced.
      options: those that the user gave, which stay.

    Returns:
      None where it has no option `advantage` or `baseline`, or the user gave it.
    """
    option = advantage_option(function, options)
    if option is None:
        return None
    known = defaults(function) or {}
    own = {p for f in ADVANTAGES.values() for p in defaults(f) or {}} - set(options)
    return partial(function, **{option: advantage}, **{p: None for p in own & set(known) if known[p] is not None})

"""Options that only some of the named pieces have: one given to a piece that does not have it is an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dsjax.errors import require


def names(piece: Callable[..., Any]) -> list[str]:
    """Its options: the keyword-only parameters."""
    return [p.name for p in inspect.signature(piece).parameters.values() if p.kind is p.KEYWORD_ONLY]


def taken(field: str, piece: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not None, all of which the piece must have as keyword-only parameters.

    Raises:
      InputError: for an option that it does not have, naming `field`.
    """
    known = names(piece)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        require(name in known, f"option of {field}", name, known or "none")
    return given

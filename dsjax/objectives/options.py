"""Options of objectives: what each may be, and which piece has it; one given to a piece that lacks it is an error."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dsjax.errors import require


class Limits(NamedTuple):
    """What a number may be, whatever the objective; a piece may ask for more."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    open: bool = False  # the lower end is not allowed

    def hold(self, value: Any) -> bool:
        """Whether the value is such a number."""
        kinds = (int, np.integer) if self.whole else (int, float, np.integer, np.floating)
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) < math.inf:
            return False
        return bool((self.low < value if self.open else self.low <= value) and value <= self.high)


_FINITE = Limits("a finite number")
_ABOVE_0 = Limits("a finite number > 0", 0.0, open=True)
_ABOVE_1 = Limits("a finite number > 1", 1.0, open=True)
_FROM_0 = Limits("a finite number >= 0", 0.0)
_UNIT = Limits("a number of [0, 1]", 0.0, 1.0)
LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("entropy", "threshold", "margin", "reference_point"), _FINITE),
    **dict.fromkeys(("clip", "clip_high", "temperature", "temperature_negative"), _ABOVE_0),
    **dict.fromkeys(("mismatch_low", "mismatch_high", "tokens_per_sequence"), _ABOVE_0),
    **dict.fromkeys(("ratio_cap", "dual_clip"), _ABOVE_1),
    **dict.fromkeys(("beta", "reward_kl", "token_kl", "epsilon", "std_floor", "positive_weight"), _FROM_0),
    **dict.fromkeys(("decision_weight", "desirable_weight", "undesirable_weight"), _FROM_0),
    **dict.fromkeys(("discount", "gae_lambda"), _UNIT),
    "max_tokens": Limits("an integer >= 1", 1, whole=True),
    "group_size": Limits("an integer >= 2", 2, whole=True),
    "ddof": Limits("0 or 1", 0, 1, whole=True),
}


def require_limits(objective: str, options: Mapping[str, Any]) -> None:
    """Refuse options of this library's objectives that are no number of `LIMITS`; None and arrays pass.

    Raises:
      InputError: naming the option and the objective.
    """
    for name, value in options.items():
        if value is not None and name in LIMITS and not hasattr(value, "__array__"):
            limits = LIMITS[name]
            require(limits.hold(value), name, value, f"{limits.words}, for {objective}")


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

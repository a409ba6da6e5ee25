"""What maps of boundaries share: programs that run once, where an affine push turns, lines next to markers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from dsjax.numerics import compile_quickly

BRACKET = 1e-9  # relative distance from a measured zero at which both signs are read


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), compiled as the checks are: it runs once."""
    return compile_quickly(function, *arguments)(*arguments)


def turning_point(push: Callable[[float], float], low: float, high: float) -> float | None:
    """Where an affine push turns from below 0 to above it; None unless both signs are seen next to it.

    The secant through two far points, then the sign itself at a relative distance of `BRACKET` on either side.
    """
    at_low, at_high = push(low), push(high)
    zero = low - at_low * (high - low) / (at_high - at_low)
    return zero if push(zero * (1 - BRACKET)) < 0 < push(zero * (1 + BRACKET)) else None


def line_and_markers(
    ax: Any, look: dict[str, Any], line: Sequence[Any], points: Sequence[Any], fill: str = "none"
) -> None:
    """A closed form (xs, ys) as a line, and measured numbers (xs, ys) as markers of the same look."""
    ax.plot(*line, **{**look, "marker": "none"})
    ax.plot(*points, **{**look, "linestyle": "none"}, markersize=5, markerfacecolor=fill)


def plain(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """Plain numbers at these ticks, or at those of the scale."""
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    if ticks is not None:
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())

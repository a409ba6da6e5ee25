"""T20 (a), symbolically: equal partials everywhere, and a function of the sum, are the same thing.

For every polynomial f of two log-probs, f(x, y) - f(x + y, 0) = - integral_0^y (df/dx - df/dy)(x + s, y - s) ds. If
the partials are equal everywhere the right side is 0, and f(x, y) = f(x + y, 0) is a function of the sum. Conversely
g(x + y) has equal partials. Integration divides by integers: both sides are multiplied by their least common multiple.
"""

from __future__ import annotations

from math import lcm

from sympy import ZZ
from sympy.polys.rings import ring

from proofs_check.symbolic.proof import Element, Proofs

DEGREES = (2, 3, 4)
PROOFS = Proofs("T20")


@PROOFS.identity(
    "f = g(x + y): df/dx = df/dy",
    "x, y, all coefficients of g",
    *DEGREES[-1:],
    shape="two tokens, degree {}",
    control="g(x + 2 y), a weight on one of the tokens",
    weight=2,
)
def partials(degree: int, *, weight: int = 1) -> list[Element]:
    """df/dx - df/dy of a polynomial of the sum."""
    _, x, y, *g = ring(["x", "y", *(f"g_{i}" for i in range(degree + 1))], ZZ)
    f: Element = sum(a * (x + weight * y) ** i for i, a in enumerate(g))
    return [f.diff(x) - f.diff(y)]


@PROOFS.identity(
    "f(x, y) - f(x + y, 0) = - integral of df/dx - df/dy along x + y = const: 0 if they are equal everywhere",
    "x, y, all coefficients of f",
    *DEGREES,
    shape="two tokens, degree {}",
    control="the sum of the partials in place of their difference",
    sign=1,
)
def segment(degree: int, *, sign: int = -1) -> list[Element]:
    """The fundamental theorem along the segment from (x, y) to (x + y, 0), for the general polynomial."""
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    _, x, y, s, *f = ring(["x", "y", "s", *(f"f_{i}_{j}" for i, j in powers)], ZZ)

    def at(a: Element, b: Element) -> Element:
        return sum(c * a**i * b**j for c, (i, j) in zip(f, powers, strict=True))

    general = at(x, y)
    slope = (general.diff(x) + sign * general.diff(y)).compose([(x, x + s), (y, y - s)])
    # Antiderivative in s, times a common multiple of its denominators, between 0 and y.
    unit, place = lcm(*range(1, degree + 2)), slope.ring.gens.index(s)
    integral = slope.ring.zero
    for monomial, c in slope.terms():
        n = monomial[place] + 1
        raised = tuple(e + (i == place) for i, e in enumerate(monomial))
        integral += slope.ring({raised: c * (unit // n)})
    return [unit * (general - at(x + y, 0)) + integral.compose(s, y)]

"""What a symbolic proof is: identities between exact elements, and a wrong variant that is not an identity.

Everything is an element of a polynomial ring (or of its field of fractions) over the integers, which sympy keeps in
normal form: two elements are the same function of the free symbols if and only if their difference has no terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any, TypeVar

import sympy
from sympy.polys.fields import FracElement
from sympy.polys.rings import PolyElement

# Sympy's elements carry arithmetic that type checkers cannot see. `int` is what an empty sum is.
Element = Any
Residual = TypeVar("Residual", bound=Callable[..., list[Any]])


@dataclass(frozen=True)
class SymbolicProof:
    """A claim for one shape, as expressions that vanish for all values of the free symbols.

    Attributes:
      theorem: id, as in `proofs_check.registry`.
      shape: of the process, and what is fixed.
      symbols: what is free.
      claim: what vanishes, in words.
      residual: differences of both sides; each must be identically zero.
      control: the same for a wrong variant; at least one must not be identically zero.
      control_name: what is wrong in the variant.
    """

    theorem: str
    shape: str
    symbols: str
    claim: str
    residual: Callable[[], list[Element]]
    control: Callable[[], list[Element]]
    control_name: str


class Proofs(list[SymbolicProof]):
    """The proofs of a theorem, each declared where its residual is computed."""

    def __init__(self, theorem: str):
        super().__init__()
        self.theorem = theorem

    def identity(
        self, claim: str, symbols: str, *on: Any, control: str, shape: str = "{}", **wrong: Any
    ) -> Callable[[Residual], Residual]:
        """Decorator: for every x of `on`, `residual(x)` vanishes and `residual(x, **wrong)` does not.

        Args:
          claim: what vanishes, in words.
          symbols: what is free.
          on: shapes or sizes, one proof each; without any, the residual takes none.
          control: what `wrong` gets wrong, in words.
          shape: how x is named.
          wrong: arguments that make the wrong variant.
        """

        def declare(residual: Residual) -> Residual:
            for given in [(x,) for x in on] or [()]:
                right, variant = partial(residual, *given), partial(residual, *given, **wrong)
                self.append(SymbolicProof(self.theorem, shape.format(*given), symbols, claim, right, variant, control))
            return residual

        return declare


def is_zero(x: Element) -> bool:
    """Whether an element is identically zero: decided by its normal form, not by evaluation.

    Raises:
      TypeError: for anything that has no normal form here, such as a sympy expression tree or a float.
    """
    if not isinstance(x, PolyElement | FracElement | int):
        raise TypeError(f"no normal form: {type(x).__name__}")
    return x == 0


def evaluate(x: Element, point: Mapping[str, Fraction]) -> Fraction:
    """Exact value at a point that gives a rational number for each symbol, by name.

    Raises:
      ZeroDivisionError: at a pole.
    """
    if isinstance(x, int):
        return Fraction(x)
    if isinstance(x, FracElement):
        return evaluate(x.numer, point) / evaluate(x.denom, point)
    # Integers over one common denominator: adding fractions would look for common factors at every step.
    values = [point[str(symbol)] for symbol in x.ring.symbols]
    common = prod(value.denominator ** max(degree, 0) for value, degree in zip(values, x.degrees(), strict=True))
    total = 0
    for powers, coefficient in x.terms():
        top, bottom = int(coefficient), 1
        for value, power in zip(values, powers, strict=True):
            if power:
                top *= value.numerator**power
                bottom *= value.denominator**power
        total += top * (common // bottom)
    return Fraction(total, common)


def rational_point(x: Element) -> dict[str, Fraction]:
    """1/7, 1/11, 1/13, .. for the symbols in turn: inside of every simplex that is used, and with no symmetry."""
    if isinstance(x, int):
        return {}
    ring = x.field if isinstance(x, FracElement) else x.ring
    return {str(symbol): Fraction(1, int(sympy.prime(i + 4))) for i, symbol in enumerate(ring.symbols)}


def is_refuted(x: Element) -> bool:
    """Whether "x is identically zero" is refuted by an exact value at one rational point."""
    return evaluate(x, rational_point(x)) != 0

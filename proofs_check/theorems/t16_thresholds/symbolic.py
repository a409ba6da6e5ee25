"""T16, symbolically: the regret of an imitator visit by visit, and over three rounds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from sympy import ZZ
from sympy.polys.fields import field

from proofs_check.symbolic.proof import Element, Proofs

PROOFS = Proofs("T16")


@PROOFS.identity(
    "V - [q^2 + (1-q) V] = q (V - q); q - [q^2 + (1-q) V] = (1-q)(q - V)",
    "q, V",
    shape="a visit",
    control="q (V - q) on both sides of the threshold",
    one_formula=True,
)
def visit(*, one_formula: bool = False) -> list[Element]:
    """What the maximiser gets less what STOP with probability q gets, where it goes on and where it stops."""
    _, q, V = field("q V", ZZ)
    imitator = q * q + (1 - q) * V
    above = q * (V - q) if one_formula else (1 - q) * (q - V)
    return [V - imitator - q * (V - q), q - imitator - above]


@PROOFS.identity(
    "d cross-entropy/d pi at pi = q is 0; its slope elsewhere is (pi - q)/(pi (1 - pi))",
    "q, pi",
    shape="labels right with probability q",
    control="least at the greedy decider, pi = 1",
    greedy=True,
)
def cross_entropy(*, greedy: bool = False) -> list[Element]:
    """-q log pi - (1 - q) log(1 - pi) by hand: slope -q/pi + (1 - q)/(1 - pi), times pi (1 - pi)."""
    _, q, pi = field("q pi", ZZ)

    def slope(x: Element) -> Element:
        return -q * (1 - x) + (1 - q) * x

    return [slope(pi) - (pi - q), slope(q * 0 + 1 if greedy else q)]


@PROOFS.identity(
    "J* - J(imitator) = sum over its visits of its regret there",
    "masses and q of two contexts, cost",
    shape="three rounds, two contexts, all 16 ways to decide",
    control="regrets summed over the maximiser's visits",
    others=True,
)
def episode(*, others: bool = False) -> list[Element]:
    """Both returns by backward recursion; V is that of whichever decisions are taken for the maximiser's.

    `others`: the visits of the maximiser instead of the imitator's.
    """
    return [_lost(*pattern, others=others) for pattern in product(product((False, True), repeat=2), repeat=2)]


def _lost(*stops: tuple[bool, ...], others: bool) -> Element:
    """J* - J(imitator) less the sum of regrets; `stops`: where the maximiser stops, by round and context."""
    _, m, q0, q1, c = field("m q0 q1 c", ZZ)
    mass, q = (m, 1 - m), (q0, q1)

    def mean(x: Iterable[Element]) -> Element:
        return sum(w * y for w, y in zip(mass, x, strict=True))

    going, J = [mean(q) - c], mean(q)
    for kept in reversed(stops):
        J = mean(x * x + (1 - x) * (J - c) for x in q)
        going.insert(0, mean(x if stop else going[0] for x, stop in zip(q, kept, strict=True)) - c)
    total, alive = 0 * m, m**0
    for kept, V in zip(stops, going[1:], strict=True):
        total += alive * mean((1 - x) * (x - V) if stop else x * (V - x) for x, stop in zip(q, kept, strict=True))
        alive *= mean(1 - int(stop) if others else 1 - x for x, stop in zip(q, kept, strict=True))
    return going[0] + c - J - total

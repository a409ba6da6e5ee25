"""T22, symbolically: when there is no mix, and that accuracy rises with a and falls with b, for every T."""

from __future__ import annotations

from sympy import ZZ
from sympy.polys.fields import field
from sympy.polys.rings import ring

from proofs_check.symbolic.proof import Element, Proofs

PROOFS = Proofs("T22")


@PROOFS.identity(
    "laws of the sampler within right and within wrong answers kept: a and b are kept, so mix = 0",
    "a law of two right and two wrong answers, a new p, P(STOP) of each",
    shape="two right, two wrong answers",
    control="the law within wrong answers moves",
    moves=True,
)
def no_mix(*, moves: bool = False) -> list[Element]:
    """a and b of a sampler whose p alone moves, with any decider. `moves`: so does a wrong answer's share."""
    _, p, new, u, v, w, *stop = field("p new u v w s0 s1 s2 s3", ZZ)

    def averages(p: Element, v: Element) -> tuple[Element, Element]:
        law = (p * u, p * (1 - u), (1 - p) * v, (1 - p) * (1 - v))
        right, wrong = (sum(x * s for x, s in zip(law[i : i + 2], stop[i : i + 2], strict=True)) for i in (0, 2))
        return right / (law[0] + law[1]), wrong / (law[2] + law[3])

    before, after = averages(p, v), averages(new, w if moves else v)
    return [x - y for x, y in zip(before, after, strict=True)]


@PROOFS.identity(
    "d acc_(T+1)/da = p (1 - acc_T) + zeta d acc_T/da; d acc_(T+1)/db = -(1-p) acc_T + zeta d acc_T/db",
    "p, a, b, acc_T and its two slopes",
    shape="every T",
    control="the attempts that a stop ends left out",
    left_out=True,
)
def monotone(*, left_out: bool = False) -> list[Element]:
    """Slopes of acc_(T+1) = p a + zeta acc_T: from acc_1 = p on, >= 0 in a and <= 0 in b.

    With a (or b) moved by e, acc_T = f + f_a e to first order, whatever its value and slopes are.
    """
    _, p, a, b, f, f_a, f_b, e = ring("p a b f f_a f_b e", ZZ)

    def slope(a: Element, b: Element, acc: Element) -> Element:
        return (p * a + (1 - p * a - (1 - p) * b) * acc).diff(e).subs(e, 0)

    stays = 1 - p * a - (1 - p) * b
    ended = (0, 0) if left_out else (p * (1 - f), -(1 - p) * f)
    return [
        slope(a + e, b, f + f_a * e) - ended[0] - stays * f_a,
        slope(a, b + e, f + f_b * e) - ended[1] - stays * f_b,
    ]

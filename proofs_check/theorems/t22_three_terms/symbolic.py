"""T22, symbolically: the three terms from laws of answers, and the bound on transfer as sums of what is >= 0."""

from __future__ import annotations

from sympy import ZZ
from sympy.polys.fields import field
from sympy.polys.rings import ring

from proofs_check.symbolic.proof import Element, Proofs

PROOFS = Proofs("T22")


@PROOFS.identity(
    "exp of twice the parts: sampler = (odds p1/odds p0)^2 prod_d (a/b)(s1, d)/(a/b)(s0, d); decider = prod_s ..",
    "two samplers' laws, two deciders' P(STOP)",
    shape="one right and two wrong answers, T -> inf",
    control="mix left out",
    no_mix=True,
)
def parts(*, no_mix: bool = False) -> list[Element]:
    """Shapley parts of log odds of final accuracy, cross-multiplied, so that there is no logarithm and no division.

    odds(acc) = (p a)/((1-p) b) for each sampler with each decider: sums over answers. `no_mix`: a and b said to be
    those of the old sampler.
    """
    heads = [f"s{i}_{y}" for i in range(2) for y in range(3)] + [f"d{i}_{y}" for i in range(2) for y in range(3)]
    _, *x = ring(heads, ZZ)
    s, d = (x[0:3], x[3:6]), (x[6:9], x[9:12])  # laws up to a factor each, which drops out

    def p(i: int) -> tuple[Element, Element]:
        return s[i][0], s[i][1] + s[i][2]

    def odds(i: int, j: int) -> tuple[Element, Element]:
        """Right and wrong ends: P(right) a, P(wrong) b."""
        return s[i][0] * d[j][0], s[i][1] * d[j][1] + s[i][2] * d[j][2]

    def discrimination(i: int, j: int) -> tuple[Element, Element]:
        """a/b = (ends/p) of right answers over that of wrong ones."""
        (right, wrong), (p1, p0) = odds(i, j), p(i)
        return right * p0, wrong * p1

    def over(x: tuple[Element, Element], y: tuple[Element, Element]) -> tuple[Element, Element]:
        return x[0] * y[1], x[1] * y[0]

    def times(x: tuple[Element, Element], y: tuple[Element, Element]) -> tuple[Element, Element]:
        return x[0] * y[0], x[1] * y[1]

    new = 0 if no_mix else 1
    change = over(p(1), p(0))
    mix = times(*(over(discrimination(new, j), discrimination(0, j)) for j in range(2)))
    sampler = times(*(over(odds(1, j), odds(0, j)) for j in range(2)))
    decider = times(*(over(odds(i, 1), odds(i, 0)) for i in range(2)))
    kept = times(*(over(discrimination(i, 1), discrimination(i, 0)) for i in range(2)))

    def same(x: tuple[Element, Element], y: tuple[Element, Element]) -> Element:
        return x[0] * y[1] - x[1] * y[0]

    return [same(sampler, times(times(change, change), mix)), same(decider, kept)]


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


@PROOFS.identity(
    "a' - (a - e_1) = sum gained P(STOP) + sum lost (1 - P(STOP)); (b + e_0) - b' = sum gained (1 - P(STOP)) + ..",
    "what each answer gains or loses in probability, P(STOP) of each",
    shape="three answers that gain and three that lose",
    control="half of the total variation",
    half=True,
)
def transfer(*, half: bool = False) -> list[Element]:
    """What moves from some answers to others is e in all; sums of products of what is >= 0. `half`: e/2."""
    names = [f"{head}_{i}" for head in ("gain", "loss", "u", "v") for i in range(3)]
    _, *x = ring(names, ZZ)
    gain, u, v = x[0:3], x[6:9], x[9:12]
    e = sum(gain)
    loss = [x[3], x[4], e - x[3] - x[4]]
    moved = sum(g * s for g, s in zip(gain, u, strict=True)) - sum(k * s for k, s in zip(loss, v, strict=True))
    low = sum(g * s for g, s in zip(gain, u, strict=True)) + sum(k * (1 - s) for k, s in zip(loss, v, strict=True))
    high = sum(g * (1 - s) for g, s in zip(gain, u, strict=True)) + sum(k * s for k, s in zip(loss, v, strict=True))
    times = 2 if half else 1
    return [times * (moved - low) + e, times * (high + moved) - e]

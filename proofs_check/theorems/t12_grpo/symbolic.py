"""T12, symbolically: the expected GRPO gradient at a prompt is c_G(p) grad p.

Square roots stay exact. With k right answers in a group of G, G std_G = s_k = sqrt(k (G - k)) and s_k = s_(G-k): each
different value gets one symbol, and A(right) = (G - k)/s_k is written s_k/k, A(wrong) = -k/s_k as -s_k/(G - k).
Everything below is linear in these symbols. For G <= 5 the different values are 1; sqrt 2; sqrt 3, 2; 2, sqrt 6: they
are linearly independent over the rationals, so an expression linear in them with rational coefficients is 0 exactly if
it is 0 for free symbols. That holds for residuals and for controls alike.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import lcm, prod

from sympy import ZZ
from sympy.polys.rings import ring

from proofs_check.symbolic.process import Shape, difference, generic
from proofs_check.symbolic.proof import Element, Proofs

SIZES = (2, 3, 4, 5)
SHAPE = Shape(2, 1, 2)

Advantage = Callable[[int, int], Element]  # of (own reward, number right in the group), in units of 1/lcm(1..G)
FACTOR = "GRPO: c_G(p) = E[std_G]/(p (1-p)); group mean: (G-1)/G; leave-one-out: 1"
ROOTS = "p; sqrt(k (G-k)) exact"
PROOFS = Proofs("T12")


def roots(size: int) -> list[str]:
    """Names of the symbols, for k = 1 .. G // 2."""
    return [f"s_{k}" for k in range(1, size // 2 + 1)]


def group_std(size: int, symbol: dict[str, Element]) -> dict[int, Element]:
    """G std_G by number of right answers; 0 in degenerate groups."""
    return {k: symbol[f"s_{min(k, size - k)}"] if 0 < k < size else 0 for k in range(size + 1)}


def normalised(size: int, std: dict[int, Element]) -> Advantage:
    """GRPO: (r - mean)/std, 0 in degenerate groups."""
    unit = lcm(*range(1, size + 1))
    return lambda r, k: 0 if k in (0, size) else std[k] * (unit // k) if r else -std[k] * (unit // (size - k))


def centred(size: int, others: bool) -> Advantage:
    """R - mean of the group, or of the other members."""
    unit = lcm(*range(1, size + 1), size - 1)
    if others:
        return lambda r, k: unit * r - unit // (size - 1) * (k - r)
    return lambda r, k: unit * r - unit // size * k


@PROOFS.identity(FACTOR, ROOTS, *SIZES[1::2], shape="G = {}", control="group mean without (G-1)/G", unbiased=True)
@PROOFS.identity(FACTOR, ROOTS, *SIZES[::2], shape="G = {}", control="k ~ Bin(G-1, p) for Bin(G, p)", fewer=True)
def scalar(size: int, *, unbiased: bool = False, fewer: bool = False) -> list[Element]:
    """p (1-p) x coefficient of grad p, summed over all 2^G outcomes of a group.

    A member's score has conditional mean grad p / p if it is right, -grad p / (1-p) if not. Claims: GRPO E[std_G];
    group mean p (1-p) (G-1)/G; leave-one-out p (1-p). `unbiased`: factor (G-1)/G left out. `fewer`: k ~ Bin(G-1, p).
    """
    names = roots(size)
    _, p, *gens = ring(["p", *names], ZZ)
    std = group_std(size, dict(zip(names, gens, strict=True)))
    unit = lcm(*range(1, size + 1))

    def mass(outcome: tuple[int, ...]) -> Element:
        return prod((p if r else 1 - p for r in outcome), start=p**0)

    def coefficient(A: Advantage) -> Element:
        """G p (1-p) unit x coefficient."""
        return sum(
            mass(rs) * sum(A(r, sum(rs)) * ((1 - p) if r else -p) for r in rs) for rs in product((0, 1), repeat=size)
        )

    members = size - 1 if fewer else size
    mean_std = sum(mass(rs) * std[sum(rs)] for rs in product((0, 1), repeat=members))  # G E[std_G]
    return [
        coefficient(normalised(size, std)) - unit * mean_std,
        coefficient(centred(size, others=False)) - unit * (size if unbiased else size - 1) * p * (1 - p),
        coefficient(centred(size, others=True)) - unit * size * p * (1 - p),
    ]


@PROOFS.identity(
    "E[A score] = c_G(p) dp/dlogit on every logit of both components",
    "all probabilities",
    *(2, 3),
    shape=f"{SHAPE}, groups of G = {{}} trajectories, binary verifier, c = 0",
    control="decision coefficient doubled",
    alone=True,
)
def process(size: int, *, alone: bool = False) -> list[Element]:
    """The enumerated process: E[A score] over groups of trajectories, every logit, = c_G(p) dp/dlogit.

    Both components at once: their shares are those of REINFORCE. Members are exchangeable, so the first stands for
    all; its coefficient is summed over all trajectories of the others. `alone`: the decider's gradient doubled.
    """
    found, model, _, symbol = generic(SHAPE, rewards=lambda q, y: int(y == (0,)), cost=False, extra=roots(size))
    std, unit = group_std(size, symbol), lcm(*range(1, size + 1))
    A = normalised(size, std)
    returns = [int(w.answers[-1] == (0,)) for w in found.trajectories]
    members = list(zip(model.laws, returns, strict=True))

    def coefficient(own: int) -> Element:
        return sum(prod(p for p, _ in rest) * A(own, own + sum(r for _, r in rest)) for rest in groups)

    groups = list(product(members, repeat=size - 1))
    by_return = [coefficient(0), coefficient(1)]
    G = model.gradient(lambda i, d: by_return[returns[i]] * (2 if alone and d.visit.component == "d" else 1))
    p = model.mean(returns)
    everyone = product(members, repeat=size)
    mean_std = sum(prod(p for p, _ in group) * std[sum(r for _, r in group)] for group in everyone)  # G E[std_G]
    left = {z: size * p * (1 - p) * g for z, g in G.items()}
    right = {z: unit * mean_std * model.logit_derivative(p, z) for z in G}
    return difference(left, right)

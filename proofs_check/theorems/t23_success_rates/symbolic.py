"""T23, symbolically: MaxRL's factor by all outcomes of a group, and the two factors of OPO on STOP."""

from __future__ import annotations

from itertools import product
from math import lcm, prod

from sympy import ZZ
from sympy.polys.rings import ring

from proofs_check.symbolic.process import DECIDE, RESAMPLE, STOP, Shape, difference, generic
from proofs_check.symbolic.proof import Element, Proofs

SIZES = (2, 3, 4, 5, 6)
LENGTHS = (1, 5, 50)
SHAPE = Shape(2, 1, 2)
BLIND = Shape(2, 1, 2, history="none")
PROOFS = Proofs("T23")


def maxrl(size: int, own: int, right: int) -> int:
    """(R - m)/m in units of 1/lcm(1..G): 0 where none is right."""
    unit = lcm(*range(1, size + 1))
    return unit * (size - right) // right if own else -unit if right else 0


@PROOFS.identity(
    "MaxRL: p c_G = 1 - (1-p)^(G-1); c_G = sum_(k=1)^(G-1) (1/k) d pass@k/dp = slope of A in R over all groups",
    "p",
    *SIZES,
    shape="G = {}",
    control="pass@1 to pass@G",
    more=1,
)
def scalar(size: int, *, more: int = 0) -> list[Element]:
    """Over all 2^G outcomes; a member's score has conditional mean grad p / p if it is right, -grad p / (1-p) if not.

    `more`: a pass@k more.
    """
    unit = lcm(*range(1, size + 1))
    _, p = ring("p", ZZ)
    ks = range(1, size + more)
    c = sum((1 - p) ** (k - 1) for k in ks)
    outcomes = list(product((0, 1), repeat=size))
    mass = {rs: prod((p if r else 1 - p for r in rs), start=p**0) for rs in outcomes}
    # G p (1-p) unit x coefficient of grad p.
    mean = sum(mass[rs] * sum(maxrl(size, r, sum(rs)) * ((1 - p) if r else -p) for r in rs) for rs in outcomes)
    return [
        mean - size * unit * p * (1 - p) * c,
        p * c - (1 - (1 - p) ** (size - 1)),
        unit * c - sum(unit // k * (1 - (1 - p) ** k).diff(p) for k in ks),
    ]


@PROOFS.identity(
    "MaxRL: E[A score] = c_G(p) dp/dlogit on every logit of both components",
    "all probabilities",
    *(2, 3),
    shape=f"{SHAPE}, groups of G = {{}} trajectories, binary verifier, c = 0",
    control="decision coefficient doubled",
    alone=True,
)
def process(size: int, *, alone: bool = False) -> list[Element]:
    """The enumerated process: the own trajectory with all trajectories of the others.

    `alone`: the decider's gradient doubled.
    """
    found, model, _, _ = generic(SHAPE, rewards=lambda q, y: int(y == (0,)), cost=False)
    unit, returns = lcm(*range(1, size + 1)), [int(w.answers[-1] == (0,)) for w in found.trajectories]
    groups = list(product(zip(model.laws, returns, strict=True), repeat=size - 1))

    def mean(own: int) -> Element:
        return sum(prod(p for p, _ in rest) * maxrl(size, own, own + sum(r for _, r in rest)) for rest in groups)

    by_return = [mean(0), mean(1)]
    G = model.gradient(lambda i, d: by_return[returns[i]] * (2 if alone and d.visit.component == DECIDE else 1))
    p = model.mean(returns)
    c = unit * sum((1 - p) ** k for k in range(size - 1))
    return difference(G, {z: c * model.logit_derivative(p, z) for z in G})


@PROOFS.identity(
    "OPO, G = 2: factor of STOP at the wrong answer less that at the right one = (a - b) L/(2 (3 L + 2))",
    "all probabilities",
    *LENGTHS,
    shape=f"{BLIND}, answers counted as L = {{}} tokens, binary verifier, c = 0",
    control="one factor for right and wrong answers",
    equal=True,
)
def opo(length: int, *, equal: bool = False) -> list[Element]:
    """Pairs of trajectories; how answers are cut into tokens enters through their number alone.

    With v_y = rho pi_stop pi_res, the gradients on STOP are v_r (1-p_1) f_r and -v_w p_1 f_w. `equal`: f_w = f_r.
    """
    found, model, _, _ = generic(BLIND, rewards=lambda q, y: int(y == (0,)), cost=False)
    n = (length + 1, 2 * length + 1)
    unit = lcm(2 * n[0], n[0] + n[1], 2 * n[1])
    members = [
        (law, n[len(w.answers) - 1], int(w.answers[-1] == (0,)))
        for w, law in zip(found.trajectories, model.laws, strict=True)
    ]

    def mean(tokens: int, own: int) -> Element:
        """Unit times the expected advantage."""
        return sum(law * (unit * own - unit // (tokens + m) * (tokens * own + m * r)) for law, m, r in members)

    A = [mean(tokens, own) for _, tokens, own in members]
    G = model.gradient(lambda i, _: A[i])
    right, wrong = (next(x for x in found.contexts if x.component == DECIDE and x.prefix == (v,)) for v in (0, 1))
    visits = {x: model.reach[x] * model.policy[x][STOP] * model.policy[x][RESAMPLE] for x in (right, wrong)}
    p_1 = model.reach[right]  # one prompt, first round
    a, b = model.policy[right][STOP], model.policy[wrong][STOP]
    # unit p_1 (1-p_1) v_r v_w (f_w - f_r)
    apart = -G[wrong, STOP] * visits[right] * (1 - p_1) - G[right, STOP] * visits[wrong] * p_1
    stated = 0 if equal else (a - b) * unit * length
    return [2 * (3 * length + 2) * apart - p_1 * (1 - p_1) * visits[right] * visits[wrong] * stated]

"""T21, symbolically: the gap of a common step, and what filler does to one parameter that moves everything."""

from __future__ import annotations

from sympy import ZZ
from sympy.polys.rings import ring

from proofs_check.symbolic.process import (
    DECIDE,
    SAMPLE,
    Context,
    Model,
    Shape,
    SymbolicProcess,
    Vector,
    dot,
    generic,
)
from proofs_check.symbolic.proof import Element, Proofs

BARE = Shape(2, 1, 2)
FILLED = Shape(2, 2, 2)  # BARE with one more token after every answer
PROOFS = Proofs("T21")

Matrix = tuple[tuple[Element, Element], tuple[Element, Element]]


@PROOFS.identity(
    "E_s + E_d - G^T F^-1 G = sum_c (u_c - x)^T F_c (u_c - x), G_c = F_c u_c, x = F^-1 G",
    "F_s, F_d, u_s, u_d",
    shape="two parameters, both components move both; times det(F)^2",
    control="the sampler's part of the gap alone",
    alone=True,
)
def gap(*, alone: bool = False) -> list[Element]:
    """With y = det(F) x = adj(F) G nothing is divided. `alone`: the decision's part of the gap left out."""
    names = "p q r k l n s t u v"
    _, p, q, r, k, l_, n, *us = ring(names, ZZ)
    matrices: tuple[Matrix, Matrix] = ((p, q), (q, r)), ((k, l_), (l_, n))
    steps = (us[0], us[1]), (us[2], us[3])

    def times(F: Matrix, x: tuple[Element, Element]) -> tuple[Element, Element]:
        return F[0][0] * x[0] + F[0][1] * x[1], F[1][0] * x[0] + F[1][1] * x[1]

    def square(F: Matrix, x: tuple[Element, Element]) -> Element:
        y = times(F, x)
        return x[0] * y[0] + x[1] * y[1]

    a, b, d = p + k, q + l_, r + n
    det, adjugate = a * d - b * b, ((d, -b), (-b, a))
    parts = [times(F, x) for F, x in zip(matrices, steps, strict=True)]
    G = parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    y = times(adjugate, G)
    energies = sum(square(F, x) for F, x in zip(matrices, steps, strict=True))
    lost = [square(F, (det * x[0] - y[0], det * x[1] - y[1])) for F, x in zip(matrices, steps, strict=True)]
    return [det * (det * energies - (G[0] * y[0] + G[1] * y[1])) - (lost[0] if alone else sum(lost))]


@PROOFS.identity(
    "unread filler, one parameter: same G_s, G_d, F_d; F_s grows by E[tau] times the filler's own",
    "all probabilities, rewards, cost, the filler's law, the parameter's effect on each logit",
    shape=f"{BARE} and one filler token after every answer",
    control="filler counted once a trajectory",
    once=True,
)
def filler(*, once: bool = False) -> list[Element]:
    """A token of law (f, 1 - f) after every answer; the parameter moves its logits by h_0, h_1, all others by e_i.

    `once`: 1 for E[tau].
    """
    bare = SymbolicProcess(BARE, (), {}, 0)
    names = [f"e_{i}" for i in range(len(bare.logits))]
    process, model, _, symbol = generic(BARE, extra=[*names, "f", "h_0", "h_1"])
    f, h = symbol["f"], (symbol["h_0"], symbol["h_1"])
    effect: Vector = {z: symbol[n] for z, n in zip(process.logits, names, strict=True)}
    contexts = SymbolicProcess(FILLED, (), {}, 0).contexts

    def unread(x: Context) -> bool:
        return x.component == SAMPLE and len(x.prefix) == 1

    def strip(x: Context) -> Context:
        return x._replace(history=tuple(y[:1] for y in x.history), prefix=x.prefix[:1])

    policy = {x: (f, 1 - f) if unread(x) else model.policy[strip(x)] for x in contexts}
    reward = {(0, y): process.reward[0, y[:1]] for y in SymbolicProcess(FILLED, (), {}, 0).answers}
    filled = Model(SymbolicProcess(FILLED, process.prompt_law, reward, process.cost), policy)
    moved: Vector = {(x, u): h[u] if unread(x) else effect[strip(x), u] for x in contexts for u in range(2)}

    def of(model: Model, b: Vector) -> list[Element]:
        """G_s, G_d, F_s, F_d in the one parameter."""
        G, pushed = model.reinforce(model.process.returns()), model.fisher_times(b)
        return [dot(b, x, component) for x in (G, pushed) for component in (SAMPLE, DECIDE)]

    (G_s, G_d, F_s, F_d), long = of(model, effect), of(filled, moved)
    tau = 1 if once else model.mean([len(w.answers) for w in process.trajectories])
    grown = F_s + tau * f * (1 - f) * (h[0] - h[1]) ** 2
    return [x - y for x, y in zip(long, (G_s, G_d, grown, F_d), strict=True)]

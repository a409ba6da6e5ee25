"""T1, symbolically: the derivative of J is E[R score] in each component; scores of components are uncorrelated."""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement

from sympy import ZZ
from sympy.polys.fields import field

from proofs_check.symbolic.process import DECIDE, SAMPLE, Draw, Generic, Model, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

GRADIENT_SHAPES = (Shape(2, 2, 2), Shape(2, 1, 3, prompts=2), Shape(3, 1, 2), Shape(3, 1, 2, history="none"))
MOMENT_SHAPE = Shape(2, 1, 2)
SYMBOLS = "all probabilities, rewards, cost, prompt law"
PROOFS = Proofs("T1")


@PROOFS.identity(
    "d pi_v/d logit_u = pi_v (1[u=v] - pi_u)",
    "e = exp(logit)",
    *(2, 3, 4),
    shape="one softmax of {} choices",
    control="normaliser held fixed",
    wrong=True,
)
def softmax(choices: int, *, wrong: bool = False) -> list[Element]:
    """w_u d/dw_u of pi_v = w_v / sum w, minus pi_v (1[u = v] - pi_u), for all u and v.

    `wrong`: the derivative at the other weights held fixed in the normaliser, i.e. without the second term.
    """
    _, *w = field([f"w_{v}" for v in range(choices)], ZZ)
    pi = [x / sum(w) for x in w]
    pairs = [(u, v) for u in range(choices) for v in range(choices)]
    return [w[u] * pi[v].diff(w[u]) - pi[v] * (int(u == v) - (0 if wrong else pi[u])) for u, v in pairs]


@cache
def _generic(shape: Shape) -> Generic:
    return generic(shape)


@PROOFS.identity(
    "dJ/dlogit = E[R score], every logit of both components",
    SYMBOLS,
    *GRADIENT_SHAPES,
    control="cost left out of the return",
    forget_cost=True,
)
def gradient(shape: Shape, *, forget_cost: bool = False) -> list[Element]:
    """dJ/dz minus E[R score], every logit of both components."""
    process, model, _, symbol = _generic(shape)
    returns = process.returns()
    J = model.mean(returns)
    if forget_cost:
        returns = [f + symbol["c"] * (len(w.answers) - 1) for f, w in zip(returns, process.trajectories, strict=True)]
    G = model.reinforce(returns)
    return [model.logit_derivative(J, z) - G[z] for z in process.logits]


@PROOFS.identity(
    "E[score score^T] = F_s + F_d, block by block: E[score_s score_d^T] = 0",
    "all probabilities",
    MOMENT_SHAPE,
    control="trajectories weighted by another policy",
    tilt=True,
)
def moments(shape: Shape, *, tilt: bool = False) -> list[Element]:
    """E[score_w score_w^T], entry by entry, minus the Fisher matrix: 0 off its blocks, so 0 between components.

    `tilt`: trajectories weighted by another policy.
    """
    found = generic(shape, policies=("pi", "other"))
    process, model = found.process, found.model
    law = Model(process, found.policies["other"]).laws if tilt else model.laws
    counts = Model(process, found.policies["other"]).counts() if tilt else model.counts()
    moment = dict.fromkeys(combinations_with_replacement(process.logits, 2), 0)
    for w, p in zip(process.trajectories, law, strict=True):
        score: dict = {}
        for d in w.draws:
            for z, s in model.score(d).items():
                score[z] = score.get(z, 0) + s
        for a, b in combinations_with_replacement([z for z in process.logits if z in score], 2):
            moment[a, b] = moment[a, b] + p * score[a] * score[b]
    unit = {z: 0 for z in process.logits}
    column = {z: model.fisher_times({**unit, z: 1}, counts) for z in process.logits}
    return [moment[a, b] - column[b][a] for a, b in moment]


@PROOFS.identity(
    "dJ/dtheta = E[R score_s] + E[R score_d], E[score_s score_d] = 0",
    SYMBOLS + ", the parameter's effect on each logit",
    Shape(2, 1, 2, history="none"),
    shape="{}, one parameter shared by both components",
    control="forced stop counted as a decision",
    forced=True,
)
def shared(shape: Shape, *, forced: bool = False) -> list[Element]:
    """One parameter moves every logit z by b_z, all b_z free: derivative of J, and E[score_s score_d].

    `forced`: the forced stop of round T counted as a decision.
    """
    names = [f"b_{i}" for i in range(len(generic(shape).process.logits))]
    process, model, _, symbol = generic(shape, extra=names)
    b = {z: symbol[n] for z, n in zip(process.logits, names, strict=True)}
    returns = process.returns()

    def along(draw: Draw) -> Element:
        return sum(b[z] * s for z, s in model.score(draw).items())

    scores = []
    for w in process.trajectories:
        s = sum(along(d) for d in w.draws if d.visit.component == SAMPLE)
        d = sum(along(d) for d in w.draws if d.visit.component == DECIDE)
        if forced and len(w.answers) == shape.rounds:
            last = w.draws[-1].visit
            d = d + along(Draw(last._replace(component=DECIDE, prefix=w.answers[-1]), 0))
        scores.append((s, d))
    J = model.mean(returns)
    dJ = sum(b[z] * model.logit_derivative(J, z) for z in process.logits)
    reward = model.mean([R * (s + d) for R, (s, d) in zip(returns, scores, strict=True)])
    return [dJ - reward, model.mean([s * d for s, d in scores])]

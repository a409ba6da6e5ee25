"""T6, symbolically: KL adds up over tokens; own-token KL costs per token, trajectory KL spends the variance of Lam."""

from __future__ import annotations

from functools import cache

from proofs_check.symbolic.process import (
    DECIDE,
    SAMPLE,
    Context,
    Generic,
    Shape,
    Vector,
    difference,
    generic,
)
from proofs_check.symbolic.proof import Element, Proofs
from proofs_check.theorems.t03_conservation import symbolic as t03

SHAPES = (Shape(2, 2, 2), Shape(2, 1, 2, prompts=2), Shape(3, 1, 2, history="none"))
SYMBOLS = "all probabilities of pi, prompt law, one log-ratio log pi/pi_ref per context and choice"
CHAIN = "KL(P || P_ref) = sum_x n(x) KL_x over tokens; d KL/dlogit = E[Lam score]"
PROOFS = Proofs("T6")


@cache
def of(shape: Shape) -> Generic:
    """Free probabilities and log-ratios; rewards play no part."""
    return generic(shape, log_ratios=True, rewards=lambda q, y: 0, cost=False)


def local(found: Generic, x: Context) -> tuple[Element, Element]:
    """(KL(pi_x || ref_x), Var_pi(log pi/ref | x)) of one context."""
    pairs = list(zip(found.model.policy[x], found.model.log_ratio[x], strict=True))
    kl = sum(p * k for p, k in pairs)
    return kl, sum(p * k * k for p, k in pairs) - kl**2


@PROOFS.identity(CHAIN, SYMBOLS, SHAPES[2], control="a KL charged for the forced stop", forced=True)
@PROOFS.identity(
    CHAIN, SYMBOLS, *SHAPES[:2], control="own-token KL said to be the gradient of KL(P || P_ref)", frozen=True
)
def chain(shape: Shape, *, forced: bool = False, frozen: bool = False) -> list[Element]:
    """KL(P || P_ref) = E[Lam] = sum_x n(x) KL_x; its gradient = E[Lam score].

    `forced`: a KL charged for the forced stop. `frozen`: the law of the contexts held fixed, as own-token KL does.
    """
    found = of(shape)
    process, model = found.process, found.model
    lam = model.log_ratios()
    kl = model.mean(lam)
    if forced:
        found_kl = {x: local(found, x)[0] for x in process.contexts if x.component == DECIDE}
        last = [w for w in process.trajectories if len(w.answers) == shape.rounds]
        at_end = {w: process.context(Context(DECIDE, w.prompt, w.answers[:-1], w.answers[-1])) for w in last}
        laws = dict(zip(process.trajectories, model.laws, strict=True))
        kl = kl + sum(laws[w] * found_kl[x] for w, x in at_end.items())
    by_token = sum(sum(row) * local(found, x)[0] for x, row in model.counts().items())
    G = own_token(found) if frozen else model.reinforce(lam)
    return [kl - by_token, *(model.logit_derivative(model.mean(lam), z) - G[z] for z in process.logits)]


def own_token(found: Generic, *, k1: bool = False) -> Vector:
    """Expected gradient of E_data[sum over draws of l^2/2]: coefficient l, or 1 for the estimator k1."""
    context, ratio = found.process.context, found.model.log_ratio
    return found.model.gradient(lambda i, d: 1 if k1 else ratio[context(d.visit)][d.choice])


@PROOFS.identity(
    "own-token KL: G = n(x) d KL_x/dlogit, F x = G, E = n(x) Var(log pi/pi_ref); sum_s n = L E[tau]",
    SYMBOLS,
    *SHAPES[::2],
    control="k1 in the loss for k2",
    k1=True,
)
def own_token_energy(shape: Shape, *, k1: bool = False) -> list[Element]:
    """x = log-ratio solves F x = G, and x . G = n(x) Var_pi(log pi/ref | x), context by context; sum_s n = L E[tau].

    G is n(x) times the gradient of the context's own KL_x: with the law of the contexts held fixed.
    """
    found = of(shape)
    process, model = found.process, found.model
    G, counts = own_token(found, k1=k1), model.counts()
    local_kl = [
        G[c, u] - sum(row) * model.logit_derivative(local(found, c)[0], (c, u))
        for c, row in counts.items()
        for u in range(process.choices(c))
    ]
    x: Vector = {(c, u): model.log_ratio[c][u] for c, u in process.logits}
    solved = model.fisher_times(x)
    energies = [
        sum(x[c, u] * G[c, u] for u in range(process.choices(c))) - sum(row) * local(found, c)[1]
        for c, row in counts.items()
    ]
    tokens = sum(sum(row) for c, row in counts.items() if c.component == SAMPLE)
    answers = model.mean([len(w.answers) for w in process.trajectories])
    decisions = sum(rho for v, rho in model.reach.items() if v.component == DECIDE)
    decided = sum(sum(row) for c, row in counts.items() if c.component == DECIDE)
    return [*local_kl, *difference(solved, G), *energies, tokens - shape.length * answers, decided - decisions]


@PROOFS.identity(
    "trajectory KL: F x = G, E_c = sum E[(A^c)^2] of Lam, E_s + E_d = Var(Lam) - Var_q[E(Lam|q)]",
    SYMBOLS,
    SHAPES[1],
    control="Var_q[E(Lam|q)] left out",
    forget_between=True,
)
def trajectory(shape: Shape, *, forget_between: bool = False) -> list[Element]:
    """F x = grad KL; E_c = sum E[(A^c)^2] for the payoff Lam; E_s + E_d = Var(Lam) - Var_q[E(Lam | q)]."""
    found = of(shape)
    lam = found.model.log_ratios()
    values = found.model.values(lam)
    var, between, S, D = t03.budget(found, lam, values)
    certificate, E_s, E_d = t03.energies(found, lam, values)
    return [*certificate, E_s - S, E_d - D, E_s + E_d - var + (0 if forget_between else between)]

"""T3, symbolically: the variance of the return is spent on prompts, sampling advantages and decision advantages."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from proofs_check.symbolic.process import (
    DECIDE,
    SAMPLE,
    Context,
    Draw,
    Generic,
    Shape,
    Values,
    Vector,
    difference,
    dot,
    generic,
)
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 1, 2, prompts=2), Shape(2, 2, 2), Shape(2, 1, 3), Shape(3, 1, 2))
BLIND = Shape(3, 1, 2, history="none")
SYMBOLS = "all probabilities, rewards, cost, prompt law"
PROOFS = Proofs("T3")


class Budget(NamedTuple):
    """Both sides of the conservation law for a payoff."""

    variance: Element
    between: Element  # Var_q of the prompt's mean
    sample: Element  # sum_t E[(A^s_t)^2], of whole answers
    decision: Element  # sum_t E[(A^d_t)^2]


class Energies(NamedTuple):
    """Energies of E[payoff x score], with the identities that certify them."""

    certificate: list[Element]  # F x - G, each 0
    sample: Element
    decision: Element


@cache
def of(shape: Shape) -> Generic:
    """Free probabilities, rewards, cost and prompt law."""
    return generic(shape)


def budget(found: Generic, payoff: list[Element], values: Values) -> Budget:
    """Variances, straight from the law and from the definition of the advantages of answers and decisions."""
    process, model = found.process, found.model
    mean = model.mean(payoff)
    between = sum(mu * values.at[Context(SAMPLE, q, (), ())] ** 2 for q, mu in enumerate(process.prompt_law)) - mean**2
    sample, decision = 0, 0
    for x in process.visits:
        if x.component == DECIDE:
            for v in range(2):
                rho = model.reach[x] * model.probability(Draw(x, v))
                decision = decision + rho * values.advantage(Draw(x, v)) ** 2
        elif len(x.prefix) == process.shape.length - 1:
            for v in range(process.shape.vocabulary):
                A = values.after[Draw(x, v)] - values.at[x._replace(prefix=())]
                sample = sample + model.reach[x] * model.probability(Draw(x, v)) * A**2
    return Budget(model.mean([f * f for f in payoff]) - mean**2, between, sample, decision)


def energies(found: Generic, payoff: list[Element], values: Values) -> Energies:
    """Energies by x = the advantage of each token, for a softmax per context and round."""
    process, model = found.process, found.model
    assert process.shape.history == "full"
    G = model.reinforce(payoff)
    x: Vector = {(c, u): values.advantage(Draw(c, u)) for c, u in process.logits}
    return Energies(difference(model.fisher_times(x), G), dot(x, G, SAMPLE), dot(x, G, DECIDE))


@PROOFS.identity(
    "F x = grad J; E_c = sum E[(A^c)^2]; Var(R) = E_s + E_d",
    SYMBOLS,
    *SHAPES[1:],
    control="V_t for V_(t+1) in the advantage of RESAMPLE",
    stale=True,
)
@PROOFS.identity(
    "F x = grad J; E_c = sum E[(A^c)^2]; Var(R) = Var_q[V_1] + E_s + E_d",
    SYMBOLS,
    SHAPES[0],
    control="Var_q[V_1] left out",
    forget_between=True,
)
def conservation(shape: Shape, *, stale: bool = False, forget_between: bool = False) -> list[Element]:
    """F x = G; E_c = sum E[(A^c)^2]; Var(R) = Var_q + E_s + E_d.

    `stale`: V_t for V_(t+1) in the advantage of RESAMPLE. `forget_between`: Var_q left out.
    """
    found = of(shape)
    returns = found.process.returns()
    values = found.model.values(returns)
    if stale:
        late = {
            d: values.at[d.visit._replace(component=SAMPLE, prefix=())]
            for d in values.after
            if d.visit.component == DECIDE and d.choice == 1
        }
        values = Values(values.at, {**values.after, **late})
    var, between, S, D = budget(found, returns, values)
    certificate, E_s, E_d = energies(found, returns, values)
    return [*certificate, E_s - S, E_d - D, var - (0 if forget_between else between) - E_s - E_d]


@PROOFS.identity(
    "a softmax that serves several visits: slack of the bound = sum_(i<j) rho_i rho_j E[(A_i - A_j)^2] / sum rho_i",
    SYMBOLS,
    shape=f"{BLIND}",
    control="equality claimed for a policy that cannot see the round",
    tight=True,
)
def blind_slack(*, tight: bool = False) -> list[Element]:
    """Contexts that serve several visits: by how much the energy falls short of the bound.

    For the visits i of one context, n = sum rho_i and m = sum rho_i A_i: x = m / n solves F x = G, and
    n (sum_i rho_i E_pi[A_i^2] - E) = sum_(i<j) rho_i rho_j E_pi[(A_i - A_j)^2] >= 0, Lagrange's identity. Everything
    below is multiplied by n. `tight`: the shortfall said to be 0.
    """
    found = of(BLIND)
    process, model = found.process, found.model
    returns = process.returns()
    values, G = model.values(returns), model.reinforce(returns)
    residuals = []
    for c in process.contexts:
        visits = [x for x in process.visits if process.context(x) == c]
        n = sum(model.reach[x] for x in visits)
        logits = range(process.choices(c))
        m = {u: sum(model.reach[x] * values.advantage(Draw(x, u)) for x in visits) for u in logits}
        others: Vector = {(z, u): 0 for z, u in process.logits}
        solved = model.fisher_times({**others, **{(c, u): m[u] for u in logits}})
        residuals += [solved[c, u] - n * G[c, u] for u in logits]
        energy = sum(m[u] * G[c, u] for u in logits)

        def mean_square(k: dict[int, Element], c: Context = c) -> Element:
            return sum(model.policy[c][u] * a**2 for u, a in k.items())

        bound = sum(model.reach[x] * mean_square({u: values.advantage(Draw(x, u)) for u in logits}) for x in visits)
        slack = sum(
            model.reach[x]
            * model.reach[y]
            * mean_square({u: values.advantage(Draw(x, u)) - values.advantage(Draw(y, u)) for u in logits})
            for i, x in enumerate(visits)
            for y in visits[:i]
        )
        residuals.append(n * bound - energy - (0 if tight else slack))
    return residuals


@PROOFS.identity(
    "1/4 - Var(R) = (J - 1/2)^2 + E[R (1 - R)], >= 0 for rewards in [0, 1]",
    "all probabilities, rewards, prompt law",
    SHAPES[0],
    shape="{}, c = 0",
    control="E[R (1 - R)] left out",
    binary=True,
)
def quarter(shape: Shape, *, binary: bool = False) -> list[Element]:
    """1 - 4 Var(R) = (2 J - 1)^2 + 4 E[R (1 - R)]: a sum of two terms that are >= 0 if 0 <= R <= 1.

    `binary`: the second term left out, which only a binary verifier allows.
    """
    process, model, _, _ = generic(shape, cost=False)
    returns = process.returns()
    J = model.mean(returns)
    var = model.mean([f * f for f in returns]) - J**2
    return [1 - 4 * var - (2 * J - 1) ** 2 - (0 if binary else 4 * model.mean([f * (1 - f) for f in returns]))]


@PROOFS.identity(
    "F sum E[(A^c)^2] - G_c^2 = sum_(i<j) rho_i rho_j (A_i s_j - A_j s_i)^2, so E_c <= sum E[(A^c)^2]",
    SYMBOLS + ", the parameter's effect on each logit",
    shape="T=2 L=1 V=2 Q=1 history=full, one parameter shared by both components",
    control="Fisher matrix doubled",
    doubled=True,
)
def shared_bound(*, doubled: bool = False) -> list[Element]:
    """One parameter moves every logit z by b_z, all b_z free: (sum E[A^2]) F - G^2 >= 0, so E = G^2/F <= sum E[A^2].

    Over the draws i of a component with mass rho_i, score s_i = b . score and advantage A_i, the difference is
    sum_(i<j) rho_i rho_j (A_i s_j - A_j s_i)^2. `doubled`: F twice as large.
    """
    shape = Shape(2, 1, 2)
    names = [f"b_{i}" for i in range(len(of(shape).process.logits))]
    process, model, _, symbol = generic(shape, extra=names)
    b = {z: symbol[n] for z, n in zip(process.logits, names, strict=True)}
    returns = process.returns()
    values, gradient = model.values(returns), model.reinforce(returns)
    pushed = model.fisher_times(b)
    residuals = []
    for component in (SAMPLE, DECIDE):
        draws = [Draw(x, v) for x, v in process.logits if x.component == component]
        rho = [model.reach[d.visit] * model.probability(d) for d in draws]
        s = [sum(b[z] * k for z, k in model.score(d).items()) for d in draws]
        A = [values.advantage(d) for d in draws]
        G = dot(b, gradient, component)
        F = sum(b[z] * f for z, f in pushed.items() if z[0].component == component) * (2 if doubled else 1)
        bound = sum(r * a**2 for r, a in zip(rho, A, strict=True))
        pairs = [(i, j) for j in range(len(draws)) for i in range(j)]
        slack = sum(rho[i] * rho[j] * (A[i] * s[j] - A[j] * s[i]) ** 2 for i, j in pairs)
        residuals.append(bound * F - G**2 - slack)
    return residuals

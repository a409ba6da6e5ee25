"""T19, symbolically: an unread token in every answer is a price for every attempt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

from proofs_check.symbolic.process import DECIDE, SAMPLE, STOP, Context, Model, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 1, 2), Shape(3, 1, 2, history="none"), Shape(2, 2, 2, history="none"))
PROOFS = Proofs("T19")
KNOWN = "all probabilities, log-ratios, rewards, cost, beta, the unread token's law and log-ratios"
DRIFT = ("phi", "x_0", "x_1")  # an unread token: probability of its first symbol, log-ratios of both


@PROOFS.identity(
    "J_c - beta KL_1 = J_(c + beta kappa) - beta KL_0 - beta kappa",
    KNOWN,
    *SHAPES,
    control="the price left out",
    free=True,
)
def price(shape: Shape, *, free: bool = False) -> list[Element]:
    """Both sides with one unread token an answer, over all its values; so in every gradient too.

    `free`: the cost on the right stays c, as if only the constant were left.
    """
    process, model, _, symbol = generic(shape, log_ratios=True, extra=["beta", *DRIFT])
    beta, phi = symbol["beta"], symbol["phi"]
    law, x = (phi, 1 - phi), (symbol["x_0"], symbol["x_1"])
    kappa = sum(p * k for p, k in zip(law, x, strict=True))
    returns, own = process.returns(), model.log_ratios()
    right = -beta * kappa
    for i, w in enumerate(process.trajectories):
        charged = returns[i] if free else returns[i] - beta * kappa * (len(w.answers) - 1)
        right += model.laws[i] * (charged - beta * own[i])
    return [_filled(model, beta, law, x) - right]


def _filled(model: Model, beta: Element, law: Sequence[Element], x: Sequence[Element]) -> Element:
    """J_c - beta KL_1, over all values of an unread token in every answer; `x`: its log-ratios."""
    total, returns, own = 0, model.process.returns(), model.log_ratios()
    for i, w in enumerate(model.process.trajectories):
        for tokens in product((0, 1), repeat=len(w.answers)):
            P = model.laws[i] * prod(law[u] for u in tokens)
            total += P * (returns[i] - beta * (own[i] + sum(x[u] for u in tokens)))
    return total


@PROOFS.identity(
    "d(J - beta KL_1)/dlogit_STOP = rho pi_stop pi_res [r - V + c + beta kappa + beta K - beta (l_stop - l_res)]",
    KNOWN,
    shape=f"{SHAPES[0]}",
    control="the price left out",
    free=True,
)
def boundary(*, free: bool = False) -> list[Element]:
    """T7's boundary, with V the accuracy and K the drift of the next answer, both without the unread token."""
    process, model, _, symbol = generic(SHAPES[0], log_ratios=True, extra=["beta", *DRIFT])
    beta, law, x = symbol["beta"], (symbol["phi"], 1 - symbol["phi"]), (symbol["x_0"], symbol["x_1"])
    goal, residuals = _filled(model, beta, law, x), []
    price = 0 if free else beta * sum(p * k for p, k in zip(law, x, strict=True))
    for at in (c for c in process.contexts if c.component == DECIDE):
        after = Context(SAMPLE, 0, (at.prefix,), ())
        V = sum(p * process.reward[0, y] for p, y in zip(model.policy[after], process.answers, strict=True))
        K = sum(p * k for p, k in zip(model.policy[after], model.log_ratio[after], strict=True))
        (stop, resample), (l_stop, l_resample) = model.policy[at], model.log_ratio[at]
        push = process.reward[0, at.prefix] - V + process.cost + price + beta * (K - l_stop + l_resample)
        residuals.append(model.logit_derivative(goal, (at, STOP)) - model.reach[at] * stop * resample * push)
    return residuals

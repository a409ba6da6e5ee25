"""T19, symbolically: an unread token in every answer is a price for every attempt."""

from __future__ import annotations

from itertools import product
from math import prod

from proofs_check.symbolic.process import Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 1, 2), Shape(3, 1, 2, history="none"), Shape(2, 2, 2, history="none"))
PROOFS = Proofs("T19")
DRIFT = ("phi", "x_0", "x_1")  # an unread token: probability of its first symbol, log-ratios of both


@PROOFS.identity(
    "J_c - beta KL_1 = J_(c + beta kappa) - beta KL_0 - beta kappa",
    "all probabilities, log-ratios, rewards, cost, beta, the unread token's law and log-ratios",
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
    left, right = 0, -beta * kappa
    for i, w in enumerate(process.trajectories):
        tau = len(w.answers)
        for tokens in product((0, 1), repeat=tau):
            P = model.laws[i] * prod(law[u] for u in tokens)
            left += P * (returns[i] - beta * (own[i] + sum(x[u] for u in tokens)))
        charged = returns[i] if free else returns[i] - beta * kappa * (tau - 1)
        right += model.laws[i] * (charged - beta * own[i])
    return [left - right]

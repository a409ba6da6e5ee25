"""T7, symbolically: what a trajectory KL in the reward does to the gradient of a STOP logit."""

from __future__ import annotations

from proofs_check.symbolic.process import DECIDE, RESAMPLE, SAMPLE, STOP, Context, Draw, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 2, 2), Shape(3, 1, 2))
PROOFS = Proofs("T7")


@PROOFS.identity(
    "d(J - beta KL)/dlogit_STOP = rho pi_stop pi_res [r - V_(t+1) + c + beta K_(t+1) - beta (l_stop - l_res)]",
    "all probabilities, log-ratios, rewards, cost, beta",
    *SHAPES,
    control="K_(t+1) left out",
    untaxed=True,
)
def stop_gradient(shape: Shape, *, untaxed: bool = False) -> list[Element]:
    """d(J - beta KL)/dlogit_STOP at every decision, and the tax K_(t+1) as the sum of the local KLs still to come.

    `untaxed`: K_(t+1) left out, as in a penalty that charges each token for itself alone.
    """
    process, model, _, symbol = generic(shape, log_ratios=True, extra=["beta"])
    beta, lam, returns = symbol["beta"], model.log_ratios(), process.returns()
    goal = model.mean(returns) - beta * model.mean(lam)
    values, taxes = model.values(returns), model.values(lam)
    residuals = []
    for x in process.contexts:
        if x.component != DECIDE:
            continue
        history = (*x.history, x.prefix)
        after = Context(SAMPLE, x.prompt, history, ())
        # Values include costs and log-ratios already paid: c t and the log-ratio up to and including RESAMPLE.
        V = values.at[after] + process.cost * len(history)
        stop, resample = model.log_ratio[x]
        paid = taxes.after[Draw(x, STOP)] - stop
        K = taxes.at[after] - paid - resample
        local = sum(
            model.reach[v] * _kl(model, v) for v in process.visits if v.history[: len(history)] == history
        )  # sum over later visits of rho(visit) KL
        residuals.append(model.reach[x] * model.policy[x][RESAMPLE] * K - local)
        push = process.reward[x.prompt, x.prefix] - V + process.cost
        tax = (0 if untaxed else K) - (stop - resample)
        pull = model.reach[x] * model.policy[x][STOP] * model.policy[x][RESAMPLE] * (push + beta * tax)
        residuals.append(model.logit_derivative(goal, (x, STOP)) - pull)
    return residuals


def _kl(model, x: Context) -> Element:
    return sum(p * k for p, k in zip(model.policy[x], model.log_ratio[x], strict=True))

"""T8, symbolically: the gradient of a STOP logit, and why it has the sign of "the answer is right"."""

from __future__ import annotations

from proofs_check.symbolic.process import DECIDE, RESAMPLE, SAMPLE, STOP, Context, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 2, 2, prompts=2), Shape(3, 1, 2), Shape(3, 1, 2, history="none"))
BINARY = Shape(3, 1, 3)
SYMBOLS = "all probabilities, rewards, cost, prompt law"
PUSH = "dJ/dlogit_STOP = sum over visits of rho pi_stop pi_res (r - V_(t+1) + c)"
PROOFS = Proofs("T8")


def _after(x: Context) -> Context:
    """The first visit after RESAMPLE at a decision."""
    return Context(SAMPLE, x.prompt, (*x.history, x.prefix), ())


@PROOFS.identity(PUSH, SYMBOLS, SHAPES[2], control="the first round only, for a logit that serves several", first=True)
@PROOFS.identity(PUSH, SYMBOLS, *SHAPES[:2], control="V_t for V_(t+1)", stale=True)
def stop_gradient(shape: Shape, *, stale: bool = False, first: bool = False) -> list[Element]:
    """dJ/dlogit_STOP minus the sum over the logit's visits of rho pi_stop pi_res (r - V_(t+1) + c).

    `stale`: V_t for V_(t+1). `first`: the visit of round 1 only.
    """
    process, model, _, _ = generic(shape)
    returns = process.returns()
    J, values = model.mean(returns), model.values(returns)
    residuals = []
    for c in (x for x in process.contexts if x.component == DECIDE):
        total = 0
        for x in process.visits:
            if process.context(x) != c or (first and x.history):
                continue
            t = len(x.history)
            at = Context(SAMPLE, x.prompt, x.history, ()) if stale else _after(x)
            V = values.at[at] + process.cost * (t if stale else t + 1)  # return to go
            push = process.reward[x.prompt, x.prefix] - V + process.cost
            total = total + model.reach[x] * model.policy[c][STOP] * model.policy[c][RESAMPLE] * push
        residuals.append(model.logit_derivative(J, (c, STOP)) - total)
    return residuals


@PROOFS.identity(
    "dJ/dlogit_STOP = +-pi_stop P(state, RESAMPLE, an end of the other kind): + if right, - if wrong",
    "all probabilities",
    shape=f"{BINARY}, binary verifier (two of three answers right), c = 0",
    control="the same with c > 0",
    cost=True,
)
def sign(*, cost: bool = False) -> list[Element]:
    """Binary verifier, c = 0: dJ/dlogit_STOP as a sum of probabilities, hence its sign.

    At a right answer it is pi_stop x P(this state, RESAMPLE, a wrong end), at a wrong one minus
    pi_stop x P(this state, RESAMPLE, a right end): no term has the other sign, whatever the policy. Symbols 0 and 1
    are right, 2 is wrong. `cost`: the same said with c > 0.
    """
    process, model, _, _ = generic(BINARY, rewards=lambda q, y: int(y != (2,)), cost=cost)
    J = model.mean(process.returns())
    residuals = []
    for x in (x for x in process.contexts if x.component == DECIDE):
        here = (*x.history, x.prefix)
        right = process.reward[0, x.prefix]
        ends = [
            p
            for w, p in zip(process.trajectories, model.laws, strict=True)
            if w.answers[: len(here)] == here
            and len(w.answers) > len(here)
            and process.reward[0, w.answers[-1]] != right
        ]
        push = model.policy[x][STOP] * sum(ends) * (2 * right - 1)
        residuals.append(model.logit_derivative(J, (x, STOP)) - push)
    return residuals


@PROOFS.identity(
    "SFT: N grad on STOP = nu(x) (nu(STOP|x) - pi_stop), 0 where demonstrations do not go",
    "all probabilities, rewards, cost, one mass per demonstration",
    shape=f"{SHAPES[1]}, demonstrations that begin with answer 0",
    control="the reward's gradient where demonstrations do not go",
    follows_verifier=True,
)
def imitation(*, follows_verifier: bool = False) -> list[Element]:
    """SFT on any demonstrations of round 1: N x gradient on STOP = nu(x) (nu(STOP | x) - pi_stop); 0 elsewhere.

    `follows_verifier`: the reward's gradient expected where demonstrations do not go.
    """
    shape = SHAPES[1]
    bare = generic(shape).process
    shown = [i for i, w in enumerate(bare.trajectories) if w.answers[0] == (0,)]
    process, model, _, symbol = generic(shape, extra=[f"nu_{i}" for i in shown])
    nu = [symbol[f"nu_{i}"] if i in shown else 0 for i in range(len(bare.trajectories))]
    g, counts = model.gradient(lambda i, d: 1, nu), model.counts(nu)
    J = model.mean(process.returns())
    residuals = []
    for x in (x for x in process.contexts if x.component == DECIDE):
        if (*x.history, x.prefix)[0] == (0,):
            residuals.append(g[x, STOP] - (counts[x][STOP] - sum(counts[x]) * model.policy[x][STOP]))
        else:
            residuals.append(g[x, STOP] - (model.logit_derivative(J, (x, STOP)) if follows_verifier else 0))
    return residuals

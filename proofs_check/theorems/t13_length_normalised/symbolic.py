"""T13, symbolically: dividing by the response length keeps the sign of every decision for a binary verifier."""

from __future__ import annotations

from math import lcm

from proofs_check.symbolic.process import DECIDE, STOP, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(3, 1, 3), Shape(2, 2, 2))
PROOFS = Proofs("T13")


@PROOFS.identity(
    "gradient on STOP = pi_stop x sum over later ends of terms of one sign for 0 <= base <= 1: sign as in T8",
    "all probabilities, baseline",
    *SHAPES,
    shape="{}, binary verifier (one answer right), c = 0",
    control="no division by the length",
    undivided=True,
)
def sign(shape: Shape, *, undivided: bool = False) -> list[Element]:
    """Gradient on STOP of E[(R - base)/n_tau sum log pi], written as a sum over later ends of terms of one sign.

    With n tokens at a stop here and n' > n at the end: at a right answer a right end counts (1-base) (1/n - 1/n'), a
    wrong one (1-base)/n + base/n'; at a wrong answer a right end counts -base/n - (1-base)/n', a wrong one
    -base (1/n - 1/n'). All of one sign for 0 <= base <= 1. Everything times the least common multiple of the lengths.
    `undivided`: REINFORCE.
    """
    process, model, _, symbol = generic(shape, rewards=lambda q, y: int(any(y) == 0), cost=False, extra=["base"])
    base = symbol["base"]
    tokens = [len(w.draws) for w in process.trajectories]
    unit = lcm(*tokens)
    inverse = {n: unit // n for n in tokens}
    returns = process.returns()
    G = model.gradient(lambda i, d: (returns[i] - base) * (unit if undivided else inverse[tokens[i]]))
    residuals = []
    for x in (x for x in process.contexts if x.component == DECIDE):
        here = (*x.history, x.prefix)
        n = next(m for w, m in zip(process.trajectories, tokens, strict=True) if w.answers == here)
        right, total = process.reward[0, x.prefix] == 1, 0
        for w, p, m in zip(process.trajectories, model.laws, tokens, strict=True):
            if len(w.answers) <= len(here) or w.answers[: len(here)] != here:
                continue
            ends_right = process.reward[0, w.answers[-1]] == 1
            if right == ends_right:
                size = (1 - base if right else -base) * (inverse[n] - inverse[m])
            elif right:
                size = (1 - base) * inverse[n] + base * inverse[m]
            else:
                size = -base * inverse[n] - (1 - base) * inverse[m]
            total = total + p * size
        residuals.append(G[x, STOP] - model.policy[x][STOP] * total)
    return residuals

"""T9, symbolically: demonstrations that only show right answers and STOP push every shown decision to STOP."""

from __future__ import annotations

from proofs_check.symbolic.process import DECIDE, STOP, Answer, Model, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPE = Shape(2, 1, 3)
PROOFS = Proofs("T9")


def right(q: int, y: Answer) -> int:
    """Symbols 0 and 1 are right, 2 is wrong."""
    return int(y != (2,))


@PROOFS.identity(
    "N grad on STOP = nu(y) (1 - pi_stop), 0 where not shown; blind decider: N (1 - pi_stop); at STOP, acc = p",
    "all probabilities, one mass per demonstration",
    shape=f"{SHAPE}, two of three answers right",
    control="one demonstration of (wrong, RESAMPLE, right)",
    one_retry=True,
)
def imitation(*, one_retry: bool = False) -> list[Element]:
    """N x gradient on STOP logits: nu(y) (1 - pi_stop) at shown answers, 0 elsewhere; blind: N (1 - pi_stop) > 0.

    Then with STOP certain, J = first-attempt accuracy. `one_retry`: one demonstration of (wrong, RESAMPLE, right).
    """
    bare = generic(SHAPE).process
    shown = [i for i, w in enumerate(bare.trajectories) if len(w.answers) == 1 and right(0, w.answers[0])]
    shown += [i for i, w in enumerate(bare.trajectories) if one_retry and w.answers == ((2,), (0,))]
    process, model, _, symbol = generic(SHAPE, rewards=right, cost=False, extra=["blind", *(f"nu_{i}" for i in shown)])
    nu = [symbol[f"nu_{i}"] if i in shown else 0 for i in range(len(bare.trajectories))]
    first = {w.answers[0]: p for w, p in zip(process.trajectories, nu, strict=True) if len(w.answers) == 1}

    def sft(model: Model) -> dict:
        return model.gradient(lambda i, d: 1, nu)

    g = sft(model)
    decisions = [x for x in process.contexts if x.component == DECIDE]
    tabular = [g[x, STOP] - first[x.prefix] * (1 - model.policy[x][STOP]) for x in decisions]
    later = [g[x, u] for x, u in process.logits if x.history]

    blind = symbol["blind"]
    tied = Model(process, {**model.policy, **{x: (blind, 1 - blind) for x in decisions}})
    on_stop = sum(sft(tied)[x, STOP] for x in decisions) - sum(nu) * (1 - blind)
    one, zero = blind**0, 0 * blind
    always = Model(process, {**model.policy, **{x: (one, zero) for x in decisions}})
    start = process.contexts[0]
    accuracy = sum(model.policy[start][v] * right(0, (v,)) for v in range(SHAPE.vocabulary))
    return [*tabular, *later, on_stop, always.mean(process.returns()) - accuracy]

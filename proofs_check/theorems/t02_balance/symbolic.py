"""T2, symbolically: any weight per trajectory may be replaced by each factor's own causal advantage of that weight."""

from __future__ import annotations

from functools import partial

from proofs_check.symbolic.process import DECIDE, RESAMPLE, SAMPLE, Context, Draw, Shape, difference, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 2, 2), Shape(3, 1, 2, prompts=2), Shape(3, 1, 2, history="none"))
SYMBOLS = "all probabilities, prompt law, one weight w per trajectory"
PROOFS = Proofs("T2")


@PROOFS.identity(
    "E[w score] = E[A_w score] for a policy that cannot see the round",
    "all probabilities, one weight w per trajectory",
    SHAPES[2],
    control="V_t for V_(t+1) in the advantage of RESAMPLE",
    stale=True,
)
@PROOFS.identity(
    "E[w score] = E[A_w score], every logit, A_w of tokens",
    SYMBOLS,
    *SHAPES[:2],
    control="decision coefficient times 1.01",
    scale=101,
)
def replaced(shape: Shape, *, per_answer: bool = False, scale: int = 100, stale: bool = False) -> list[Element]:
    """Gradient with coefficient w minus gradient with causal advantages, in units of 1/100.

    Args:
      shape: of the process.
      per_answer: the advantage of the whole answer on each of its tokens, instead of each token's own.
      scale: 100 times the factor on decision coefficients.
      stale: V_t for V_(t+1) in the advantage of RESAMPLE.
    """
    size = len(generic(shape).process.trajectories)
    process, model, _, symbol = generic(shape, extra=[f"w_{i}" for i in range(size)])
    w = [symbol[f"w_{i}"] for i in range(size)]
    values = model.values(w)

    def coefficient(i: int, d: Draw) -> Element:
        x = d.visit
        if x.component == DECIDE:
            if stale and d.choice == RESAMPLE:
                return 100 * (values.at[Context(SAMPLE, x.prompt, x.history, ())] - values.at[x])
            return scale * values.advantage(d)
        if not per_answer:
            return 100 * values.advantage(d)
        answer = process.trajectories[i].answers[len(x.history)]
        return 100 * (values.after[Draw(x._replace(prefix=answer[:-1]), answer[-1])] - values.at[x._replace(prefix=())])

    whole = {z: 100 * g for z, g in model.reinforce(w).items()}
    return difference(whole, model.gradient(coefficient))


PROOFS.identity(
    "E[w score] = E[A_w score], every logit, A_w of whole answers",
    SYMBOLS,
    SHAPES[0],
    control="decision coefficient times 1.01",
    scale=101,
)(partial(replaced, per_answer=True))

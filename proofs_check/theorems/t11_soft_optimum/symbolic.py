"""T11, symbolically: at the soft-Bellman policy every trajectory has the same regularised return."""

from __future__ import annotations

from proofs_check.symbolic.process import DECIDE, RESAMPLE, SAMPLE, Context, Draw, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 2, 2), Shape(3, 1, 2), Shape(2, 1, 3, prompts=2))
PROOFS = Proofs("T11")


@PROOFS.identity(
    "R - beta Lam = V(q) on every trajectory; E[(R - beta Lam) score] = 0; value = E_q[V(q)]",
    "all probabilities, rewards, cost, soft values, prompt law",
    *SHAPES,
    shape="{}, beta log pi/pi_ref = Q - V",
    control="cost left out of Q(RESAMPLE)",
    forget_cost=True,
)
def optimum(shape: Shape, *, forget_cost: bool = False) -> list[Element]:
    """R - beta Lam = V(q) on every trajectory; gradient 0 on every logit; value E_q[V(q)].

    pi* = pi_ref exp((Q - V)/beta) says beta log pi*/pi_ref = Q(x, v) - V(x), with V(x) the soft value of a visit (its
    log-normaliser times beta) and Q(x, v) the value of what follows. The V(x) are free symbols: the identities hold
    whatever they are. `forget_cost`: Q(RESAMPLE) = V_(t+1) without - c.
    """
    bare = generic(shape).process
    process, model, _, symbol = generic(shape, extra=[f"V_{i}" for i in range(len(bare.visits))])
    soft = {x: symbol[f"V_{i}"] for i, x in enumerate(process.visits)}
    T, L = shape.rounds, shape.length

    def follows(d: Draw) -> Element:
        """Q(x, v): return to go, costs counted where they are paid."""
        x, v = d
        if x.component == DECIDE:
            if v == RESAMPLE:
                after = soft[Context(SAMPLE, x.prompt, (*x.history, x.prefix), ())]
                return after if forget_cost else after - process.cost
            return process.reward[x.prompt, x.prefix]
        longer = (*x.prefix, v)
        if len(longer) < L:
            return soft[x._replace(prefix=longer)]
        if len(x.history) < T - 1:
            return soft[x._replace(component=DECIDE, prefix=longer)]
        return process.reward[x.prompt, longer]

    drift = [sum(follows(d) - soft[d.visit] for d in w.draws) for w in process.trajectories]  # beta Lam
    payoff = [R - beta_lam for R, beta_lam in zip(process.returns(), drift, strict=True)]
    start = [soft[Context(SAMPLE, q, (), ())] for q in range(shape.prompts)]
    constant = [f - start[w.prompt] for f, w in zip(payoff, process.trajectories, strict=True)]
    value = model.mean(payoff) - sum(mu * V for mu, V in zip(process.prompt_law, start, strict=True))
    return [*constant, *model.reinforce(payoff).values(), value]

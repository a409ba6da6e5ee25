"""T4, symbolically: energies depend on the law of answers, not on the tree of tokens that writes them."""

from __future__ import annotations

from typing import NamedTuple

from proofs_check.symbolic.process import (
    DECIDE,
    SAMPLE,
    Answer,
    Context,
    Draw,
    Model,
    Policy,
    Shape,
    SymbolicProcess,
    Vector,
    difference,
    dot,
    generic,
)
from proofs_check.symbolic.proof import Element, Proofs

TREE = Shape(2, 2, 2)  # four answers as two bits
FLAT = Shape(2, 1, 4)  # the same four answers as one token
BARE = Shape(2, 1, 2)
FILLED = Shape(2, 2, 2)  # BARE with one more token after every answer
PROOFS = Proofs("T4")


class Measured(NamedTuple):
    """J, the gradient and its energies; `certificate` proves the energies by F x = G."""

    J: Element
    gradient: Vector
    certificate: list[Element]
    sample: Element
    decision: Element


def measure(model: Model) -> Measured:
    """Gradient in the score form (equal to dJ/dlogit by T1), energies by x = the advantage of each token."""
    process = model.process
    returns = process.returns()
    values, G = model.values(returns), model.reinforce(returns)
    x: Vector = {(c, u): values.advantage(Draw(c, u)) for c, u in process.logits}
    certificate = difference(model.fisher_times(x), G)
    return Measured(model.mean(returns), G, certificate, dot(x, G, SAMPLE), dot(x, G, DECIDE))


def _norm(model: Model) -> Element:
    """|G_s|^2 in logit space."""
    G = model.reinforce(model.process.returns())
    return sum(g * g for (c, _), g in G.items() if c.component == SAMPLE)


@PROOFS.identity(
    "two bits or one of four symbols, relabelled, same law: F x = G in both; same J, E_s, E_d",
    "all probabilities, rewards, cost",
    shape=f"{TREE} and {FLAT}",
    control="Euclidean norm for the energy of pi_sample",
    euclidean=True,
)
def recoded(*, euclidean: bool = False) -> list[Element]:
    """Two bits against one of four symbols, with the same law of answers: J, E_s, E_d.

    The answer with bits (i, j) is symbol (2 i + j + 1) mod 4. `euclidean`: the norm of G_s said to be unchanged.
    """
    process, tree, _, _ = generic(TREE)

    def bits(y: Answer) -> Answer:
        return divmod((y[0] - 1) % 4, 2)

    def decode(x: Context, prefix: Answer) -> Context:
        return x._replace(history=tuple(map(bits, x.history)), prefix=prefix)

    def answer_law(x: Context, y: Answer) -> Element:
        first, second = decode(x, ()), decode(x, y[:1])
        return tree.policy[first][y[0]] * tree.policy[second][y[1]]

    other = SymbolicProcess(
        FLAT, process.prompt_law, {(0, (s,)): process.reward[0, bits((s,))] for s in range(4)}, process.cost
    )
    policy: Policy = {
        x: tree.policy[decode(x, bits(x.prefix))]
        if x.component == DECIDE
        else tuple(answer_law(x, bits((s,))) for s in range(4))
        for x in other.contexts
    }
    flat = Model(other, policy)
    if euclidean:
        return [_norm(tree) - _norm(flat)]
    a, b = measure(tree), measure(flat)
    return [*a.certificate, *b.certificate, a.J - b.J, a.sample - b.sample, a.decision - b.decision]


@PROOFS.identity(
    "F x = G with and without filler; same J, E_s, E_d; gradient 0 on the filler's logits",
    "all probabilities, rewards, cost, filler laws",
    shape=f"{BARE} and one filler token after every answer",
    control="filler that the verifier reads",
    verifier=True,
)
def filler(*, verifier: bool = False) -> list[Element]:
    """A token of free law after every answer: J, E_s, E_d, and gradient 0 on its logits.

    `verifier`: the verifier takes e off the reward for one filler, e a free symbol.
    """
    bare = SymbolicProcess(FILLED, (), {}, 0)  # for its contexts
    unread = [x for x in bare.contexts if x.component == SAMPLE and x.prefix]
    process, model, _, symbol = generic(BARE, extra=["e", *(f"f_{i}" for i in range(len(unread)))])
    free = {x: (symbol[f"f_{i}"], 1 - symbol[f"f_{i}"]) for i, x in enumerate(unread)}

    def strip(x: Context) -> Context:
        return x._replace(history=tuple(y[:1] for y in x.history), prefix=x.prefix[:1])

    policy = {x: free[x] if x in free else model.policy[strip(x)] for x in bare.contexts}
    taken = symbol["e"] if verifier else 0
    reward = {(0, y): process.reward[0, y[:1]] - taken * y[1] for y in bare.answers}
    longer = measure(Model(SymbolicProcess(FILLED, process.prompt_law, reward, process.cost), policy))
    gradient = [longer.gradient[x, u] for x in unread for u in range(2)]
    if verifier:
        return gradient
    base = measure(model)
    energies = [longer.J - base.J, longer.sample - base.sample, longer.decision - base.decision]
    return [*base.certificate, *longer.certificate, *energies, *gradient]

"""A decision-sampling process whose numbers are free symbols, enumerated with exact arithmetic.

Why probabilities may stand for logits. A softmax context with logits z has weights e = exp(z) and probabilities
pi_v = e_v / sum e, so d/dz_u = e_u d/de_u. Whatever is computed from the probabilities is unchanged if all weights of
a context are multiplied by a number: as a function of the weights it is known from its values on sum e = 1, where
e = pi. There the derivative acts as

    d pi_v / dz_u = pi_v (1[u = v] - pi_u),

a derivation of polynomials in pi (proved from the weights in T1). So each context gets free symbols for all
probabilities but the last, which is 1 minus the others, and `logit_derivative` is the chain rule. Nothing is divided.

Why log-ratios may be free symbols. log pi/pi_ref enters through values and derivatives alone, and
d log(pi_v/ref_v) / dz_u = 1[u = v] - pi_u is a polynomial. An identity that holds for independent symbols l_v with
these derivatives holds for the logarithms in particular.

Energies need no inverse. For a symmetric F >= 0 and any x with F x = G: G^T F^+ G = x^T F F^+ F x = x^T G. So an x is
proposed, F x = G is one of the identities to prove, and x^T G is the energy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from typing import Literal, NamedTuple

from sympy import ZZ
from sympy.polys.rings import ring

from proofs_check.symbolic.proof import Element

STOP, RESAMPLE = 0, 1
SAMPLE, DECIDE = "s", "d"
Answer = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """T, L, V, Q and what the policy sees."""

    rounds: int
    length: int
    vocabulary: int
    prompts: int = 1
    history: Literal["none", "full"] = "full"

    def __str__(self) -> str:
        return f"T={self.rounds} L={self.length} V={self.vocabulary} Q={self.prompts} history={self.history}"


class Context(NamedTuple):
    """What one softmax conditions on, or one visit to it: then the history is complete whatever the policy sees."""

    component: str  # SAMPLE or DECIDE
    prompt: int
    history: tuple[Answer, ...]
    prefix: Answer  # tokens of the answer so far; the whole answer for DECIDE


class Draw(NamedTuple):
    """One token: where it was drawn and what came out."""

    visit: Context
    choice: int


class Trajectory(NamedTuple):
    """`xi = (q, y_1, d_1, .., y_tau)`; prompt and answers name it, because only the last answer is kept."""

    prompt: int
    answers: tuple[Answer, ...]
    draws: tuple[Draw, ...]


Policy = Mapping[Context, tuple[Element, ...]]  # probabilities of all choices
Vector = dict[tuple[Context, int], Element]  # one entry a logit


@dataclass(frozen=True)
class SymbolicProcess:
    """Prompt law, verifier and cost; enumeration of visits, contexts and trajectories."""

    shape: Shape
    prompt_law: tuple[Element, ...]
    reward: Mapping[tuple[int, Answer], Element]
    cost: Element

    @cached_property
    def answers(self) -> list[Answer]:
        """All answers in lexicographic order."""
        return list(product(range(self.shape.vocabulary), repeat=self.shape.length))

    @cached_property
    def visits(self) -> list[Context]:
        """Every (round, history, prefix) at which something is drawn; nothing is decided in round T."""
        T, L, V = self.shape.rounds, self.shape.length, self.shape.vocabulary
        found = []
        for q, t in product(range(self.shape.prompts), range(T)):
            for h in product(self.answers, repeat=t):
                found += [Context(SAMPLE, q, h, x) for j in range(L) for x in product(range(V), repeat=j)]
                found += [Context(DECIDE, q, h, y) for y in self.answers if t < T - 1]
        return found

    def context(self, visit: Context) -> Context:
        """The softmax that a visit uses."""
        return visit if self.shape.history == "full" else visit._replace(history=())

    @cached_property
    def contexts(self) -> list[Context]:
        """Every softmax once."""
        return list(dict.fromkeys(map(self.context, self.visits)))

    def choices(self, context: Context) -> int:
        """Outcomes of a context."""
        return self.shape.vocabulary if context.component == SAMPLE else 2

    @cached_property
    def logits(self) -> list[tuple[Context, int]]:
        """Every logit."""
        return [(x, u) for x in self.contexts for u in range(self.choices(x))]

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """All of them, in the order of `dsjax.process`; a stop in round T is forced and is no draw."""
        T, found = self.shape.rounds, []
        for tau, q in product(range(1, T + 1), range(self.shape.prompts)):
            for ys in product(self.answers, repeat=tau):
                draws = []
                for t, y in enumerate(ys):
                    draws += [Draw(Context(SAMPLE, q, ys[:t], y[:j]), v) for j, v in enumerate(y)]
                    if t < T - 1:
                        draws.append(Draw(Context(DECIDE, q, ys[:t], y), STOP if t == tau - 1 else RESAMPLE))
                found.append(Trajectory(q, ys, tuple(draws)))
        return found

    def returns(self) -> list[Element]:
        """R = r(q, y_tau) - c (tau - 1) of every trajectory."""
        return [self.reward[w.prompt, w.answers[-1]] - self.cost * (len(w.answers) - 1) for w in self.trajectories]


@dataclass(frozen=True)
class Values:
    """E[payoff | everything so far], costs already paid included."""

    at: Mapping[Context, Element]  # a visit before its draw
    after: Mapping[Draw, Element]  # a draw, once it is known

    def advantage(self, draw: Draw) -> Element:
        """Change of the conditional mean by one draw: the advantage of a token, or of a decision."""
        return self.after[draw] - self.at[draw.visit]


@dataclass(frozen=True)
class Model:
    """A process under a policy."""

    process: SymbolicProcess
    policy: Policy
    log_ratio: Policy = field(default_factory=dict)  # free symbols for log pi/pi_ref

    def probability(self, draw: Draw) -> Element:
        """pi(choice | context)."""
        return self.policy[self.process.context(draw.visit)][draw.choice]

    @cached_property
    def laws(self) -> list[Element]:
        """P(xi) of every trajectory."""
        process = self.process
        return [process.prompt_law[w.prompt] * prod(map(self.probability, w.draws)) for w in process.trajectories]

    def mean(self, payoff: Sequence[Element]) -> Element:
        """E[payoff], one payoff a trajectory."""
        return sum(p * f for p, f in zip(self.laws, payoff, strict=True))

    def log_ratios(self) -> list[Element]:
        """Lam = log P/P_ref of every trajectory."""
        context = self.process.context
        return [sum(self.log_ratio[context(d.visit)][d.choice] for d in w.draws) for w in self.process.trajectories]

    @cached_property
    def reach(self) -> dict[Context, Element]:
        """rho: probability of every visit."""
        return {x: self.process.prompt_law[x.prompt] * self._path(x) for x in self.process.visits}

    def _path(self, visit: Context) -> Element:
        """Product of the probabilities of everything that leads from the prompt to a visit."""
        _, q, history, prefix = visit
        draws = []
        for t, y in enumerate((*history, prefix)):
            draws += [Draw(Context(SAMPLE, q, history[:t], y[:j]), v) for j, v in enumerate(y)]
            if t < len(history):
                draws.append(Draw(Context(DECIDE, q, history[:t], y), RESAMPLE))
        return prod(map(self.probability, draws))

    def values(self, payoff: Sequence[Element]) -> Values:
        """Backward recursion over visits, token by token, for any payoff of whole trajectories."""
        process = self.process
        of = {(w.prompt, w.answers): f for w, f in zip(process.trajectories, payoff, strict=True)}
        T, L = process.shape.rounds, process.shape.length
        at: dict[Context, Element] = {}
        after: dict[Draw, Element] = {}
        # Later rounds, and in a round the decision and longer prefixes, come first.
        for x in sorted(process.visits, key=lambda x: (len(x.history), x.component == DECIDE, len(x.prefix)))[::-1]:
            for v in range(process.choices(x)):
                if x.component == DECIDE:
                    ys = (*x.history, x.prefix)
                    after[Draw(x, v)] = of[x.prompt, ys] if v == STOP else at[Context(SAMPLE, x.prompt, ys, ())]
                elif len(x.prefix) < L - 1:
                    after[Draw(x, v)] = at[x._replace(prefix=(*x.prefix, v))]
                elif len(x.history) < T - 1:
                    after[Draw(x, v)] = at[Context(DECIDE, x.prompt, x.history, (*x.prefix, v))]
                else:
                    after[Draw(x, v)] = of[x.prompt, (*x.history, (*x.prefix, v))]
            at[x] = sum(self.probability(Draw(x, v)) * after[Draw(x, v)] for v in range(process.choices(x)))
        return Values(at, after)

    def counts(self, laws: Sequence[Element] | None = None) -> dict[Context, list[Element]]:
        """n(x, choice): expected draws of each choice in each context, by default under the model's own law."""
        n = {x: [0] * self.process.choices(x) for x in self.process.contexts}
        for w, p in zip(self.process.trajectories, self.laws if laws is None else laws, strict=True):
            for d in w.draws:
                row = n[self.process.context(d.visit)]
                row[d.choice] = row[d.choice] + p
        return n

    def score(self, draw: Draw) -> Vector:
        """d log pi(choice | x) / dz_u = 1[u = choice] - pi_u, where it is not 0."""
        x = self.process.context(draw.visit)
        return {(x, u): int(u == draw.choice) - pi for u, pi in enumerate(self.policy[x])}

    def gradient(self, coefficient: Callable[[int, Draw], Element], laws: Sequence[Element] | None = None) -> Vector:
        """E[sum over draws of coefficient x score], one entry a logit.

        Args:
          coefficient: of (number of the trajectory, draw).
          laws: of the trajectories, by default the model's own.
        """
        process = self.process
        k = {x: [0] * process.choices(x) for x in process.contexts}
        for i, (w, p) in enumerate(zip(process.trajectories, self.laws if laws is None else laws, strict=True)):
            for d in w.draws:
                row = k[process.context(d.visit)]
                row[d.choice] = row[d.choice] + p * coefficient(i, d)
        # sum_v k_v (1[u = v] - pi_u)
        return {(x, u): k[x][u] - self.policy[x][u] * sum(k[x]) for x, u in process.logits}

    def reinforce(self, payoff: Sequence[Element]) -> Vector:
        """E[payoff x score]."""
        return self.gradient(lambda i, _: payoff[i])

    def fisher_times(self, x: Vector, counts: Mapping[Context, Sequence[Element]] | None = None) -> Vector:
        """F x with F = E[sum over draws of score score^T], contexts by `counts`, choices by the policy.

        A score has entries in one context only, so F has one block a context: n sum_v pi_v s_v s_v^T.
        """
        out: Vector = {}
        for c, row in (self.counts() if counts is None else counts).items():
            pi, n = self.policy[c], sum(row)
            along = [x[c, v] - sum(p * x[c, u] for u, p in enumerate(pi)) for v in range(len(pi))]  # s_v . x
            for u, p in enumerate(pi):
                out[c, u] = n * (p * along[u] - p * sum(q * a for q, a in zip(pi, along, strict=True)))
        return out

    def logit_derivative(self, f: Element, logit: tuple[Context, int]) -> Element:
        """df/dz_u by the chain rule through the context's probabilities and log-ratios (the module's docstring)."""
        x, u = logit
        pi, total = self.policy[x], 0
        if f == 0:
            return 0
        for v, symbol in enumerate(pi[:-1]):
            total = total + f.diff(symbol) * symbol * (int(u == v) - pi[u])
        for v, symbol in enumerate(self.log_ratio.get(x, ())):
            total = total + f.diff(symbol) * (int(u == v) - pi[u])
        return total


def dot(x: Vector, y: Vector, component: str | None = None) -> Element:
    """x . y, over the logits of one component or of both."""
    return sum(x[k] * y[k] for k in y if component in (None, k[0].component))


def difference(x: Vector, y: Vector) -> list[Element]:
    """Entries of x - y; both must have the same logits."""
    assert x.keys() == y.keys()
    return [x[k] - y[k] for k in x]


class Generic(NamedTuple):
    """A process of free symbols, policies of free symbols, and further symbols."""

    process: SymbolicProcess
    model: Model  # under the first policy
    policies: dict[str, Policy]
    symbol: dict[str, Element]  # by name


def name(head: str, context: Context, choice: int) -> str:
    """Name of a symbol, e.g. `pi_s0_01.10_1_0`: prompt 0, history (01, 10), prefix 1, choice 0."""
    history = ".".join("".join(map(str, y)) for y in context.history)
    return f"{head}_{context.component}{context.prompt}_{history}_{''.join(map(str, context.prefix))}_{choice}"


def generic(
    shape: Shape,
    *,
    policies: Sequence[str] = ("pi",),
    log_ratios: bool = False,
    rewards: Callable[[int, Answer], int] | None = None,
    cost: bool = True,
    extra: Sequence[str] = (),
) -> Generic:
    """Free symbols for everything.

    Args:
      shape: of the process.
      policies: names of policies of independent free probabilities.
      log_ratios: give the first policy a free symbol for each log pi/pi_ref.
      rewards: a fixed verifier; by default r(q, y) is a free symbol.
      cost: a free cost, or c = 0.
      extra: names of further symbols.
    """
    bare = SymbolicProcess(shape, (), {}, 0)
    names = [f"mu_{q}" for q in range(shape.prompts - 1)]
    for head in policies:
        names += [name(head, x, v) for x in bare.contexts for v in range(bare.choices(x) - 1)]
    if log_ratios:
        names += [name("l", x, v) for x, v in bare.logits]
    keys = list(product(range(shape.prompts), bare.answers))
    reward_names = {(q, y): f"r_{q}_{''.join(map(str, y))}" for q, y in keys}
    names += [] if rewards else reward_names.values()
    names += ["c"] if cost else []
    names += extra
    polynomials, *gens = ring(names, ZZ)
    symbol = dict(zip(names, gens, strict=True))
    one = polynomials.one

    def simplex(free: list[Element]) -> tuple[Element, ...]:
        return (*free, one - sum(free))

    def law(head: str) -> Policy:
        return {x: simplex([symbol[name(head, x, v)] for v in range(bare.choices(x) - 1)]) for x in bare.contexts}

    process = SymbolicProcess(
        shape,
        simplex([symbol[f"mu_{q}"] for q in range(shape.prompts - 1)]),
        {k: one * rewards(*k) if rewards else symbol[reward_names[k]] for k in keys},
        symbol["c"] if cost else polynomials.zero,
    )
    laws = {head: law(head) for head in policies}
    ratios = {x: tuple(symbol[name("l", x, v)] for v in range(bare.choices(x))) for x in bare.contexts if log_ratios}
    return Generic(process, Model(process, laws[policies[0]], ratios), laws, symbol)

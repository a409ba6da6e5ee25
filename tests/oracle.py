"""Brute force on small decision-sampling processes: plain Python and NumPy, nothing shared with the library.

A process and its policy are dictionaries of conditional probabilities; everything else is an average over a list of
trajectories that a recursion writes out. Slow and obvious on purpose.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Answer = tuple[int, ...]
STOP, RESAMPLE = 0, 1


class Factor(NamedTuple):
    """One conditional probability of a trajectory: a token of an answer, or a decision."""

    component: str  # "sample" or "decision"
    context: tuple  # key of the policy's table: (prompt, what it sees of the history, prefix or answer)
    node: tuple  # (prompt, all earlier answers, prefix or answer): where in the tree it happens
    choice: int


class Trajectory(NamedTuple):
    prompt: int
    answers: tuple[Answer, ...]
    factors: tuple[Factor, ...]
    reward: float
    probability: float


def answers_of(vocabulary: int, length: int) -> list[Answer]:
    return list(itertools.product(range(vocabulary), repeat=length))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


@dataclass(frozen=True)
class Toy:
    prompt_law: tuple[float, ...]
    reward: dict[tuple[int, Answer], float]
    cost: float
    vocabulary: int
    length: int
    rounds: int
    history: str
    sample: dict[tuple, np.ndarray]  # (prompt, seen history, prefix) -> probabilities of the next token
    decision: dict[tuple, np.ndarray]  # (prompt, seen history, answer) -> probabilities of (STOP, RESAMPLE)

    def seen(self, history: tuple[Answer, ...]) -> tuple[Answer, ...]:
        return history if self.history == "full" else ()

    def layout(self, component: str) -> list[tuple]:
        """Contexts in the order of the library's logit tables: prompt, history, then prefix or answer."""
        answers = answers_of(self.vocabulary, self.length)
        rounds = self.rounds if component == "sample" else max(self.rounds - 1, 1)
        histories = [h for t in range(rounds if self.history == "full" else 1) for h in histories_of(self, t)]
        if component == "sample":
            last = [p for j in range(self.length) for p in itertools.product(range(self.vocabulary), repeat=j)]
        else:
            last = answers
        return list(itertools.product(range(len(self.prompt_law)), histories, last))

    def arrange(self, component: str, rows: dict[tuple, np.ndarray]) -> np.ndarray:
        """f[contexts, choices]: rows in `layout` order, zero where there is none."""
        width = self.vocabulary if component == "sample" else 2
        return np.array([rows.get(context, np.zeros(width)) for context in self.layout(component)])


def histories_of(toy: Toy, t: int) -> list[tuple[Answer, ...]]:
    """All histories of t answers, lexicographic."""
    return list(itertools.product(answers_of(toy.vocabulary, toy.length), repeat=t))


def with_logits(toy: Toy, sample: np.ndarray, decision: np.ndarray) -> Toy:
    """The same process under the softmax policy of two logit tables (any shape whose rows are in `layout` order)."""
    tables = {}
    for name, logits in (("sample", sample), ("decision", decision)):
        contexts = toy.layout(name)
        rows = np.asarray(logits, float).reshape(len(contexts), -1)
        tables[name] = {context: softmax(row) for context, row in zip(contexts, rows, strict=True)}
    return Toy(**{**toy.__dict__, **tables})


def enumerate_toy(toy: Toy) -> list[Trajectory]:
    """Every trajectory, ordered by (rounds used, prompt, answers)."""
    found: list[Trajectory] = []

    def grow(q: int, history: tuple[Answer, ...], factors: tuple[Factor, ...], probability: float) -> None:
        for answer in answers_of(toy.vocabulary, toy.length):
            p, f = probability, factors
            for j, token in enumerate(answer):
                context = (q, toy.seen(history), answer[:j])
                p = p * toy.sample[context][token]
                f = (*f, Factor("sample", context, (q, history, answer[:j]), token))
            reward = toy.reward[q, answer] - toy.cost * len(history)
            answers = (*history, answer)
            if len(answers) == toy.rounds:
                found.append(Trajectory(q, answers, f, reward, p))
                continue
            context = (q, toy.seen(history), answer)
            stop, resample = toy.decision[context]
            for choice, probability_of in ((STOP, stop), (RESAMPLE, resample)):
                factor = Factor("decision", context, (q, history, answer), choice)
                if choice == STOP:
                    found.append(Trajectory(q, answers, (*f, factor), reward, p * probability_of))
                else:
                    grow(q, answers, (*f, factor), p * probability_of)

    for q, mu in enumerate(toy.prompt_law):
        grow(q, (), (), mu)
    return sorted(found, key=lambda w: (len(w.answers), w.prompt, w.answers))


def mean(trajectories: Sequence[Trajectory], payoff: Callable[[Trajectory], float]) -> float:
    return float(sum(w.probability * payoff(w) for w in trajectories))


def expected_return(trajectories: Sequence[Trajectory]) -> float:
    return mean(trajectories, lambda w: w.reward)


def variance(trajectories: Sequence[Trajectory]) -> float:
    J = expected_return(trajectories)
    return mean(trajectories, lambda w: (w.reward - J) ** 2)


class Conditional(NamedTuple):
    """Keys: (prompt, history, prefix) with 0..L prefix tokens, and (prompt, history, answer, decision)."""

    mass: dict[tuple, float]  # probability of passing through the node
    mean: dict[tuple, float]  # average payoff of the trajectories that pass through it


def conditional(trajectories: Sequence[Trajectory], payoff: Callable[[Trajectory], float] | None = None) -> Conditional:
    """Conditional averaging over trajectories: V(h) = mean[q, h, ()], U(h, y) = mean[q, h, y]."""
    mass: dict[tuple, float] = defaultdict(float)
    total: dict[tuple, float] = defaultdict(float)
    for w in trajectories:
        f = w.reward if payoff is None else payoff(w)
        passed = {(w.prompt, w.answers[:t], y[:j]) for t, y in enumerate(w.answers) for j in range(len(y) + 1)}
        passed |= {(*x.node, x.choice) for x in w.factors if x.component == "decision"}
        for node in passed:
            mass[node] += w.probability
            total[node] += w.probability * f
    return Conditional(dict(mass), {node: total[node] / mass[node] for node in mass})


def child(factor: Factor, choice: int) -> tuple:
    """The node that `choice` leads to."""
    q, history, last = factor.node
    return (q, history, last, choice) if factor.component == "decision" else (q, history, (*last, choice))


def score_gradient(
    toy: Toy, trajectories: Sequence[Trajectory], coefficient: Callable[[Trajectory, int], float]
) -> dict[str, np.ndarray]:
    """sum_w P(w) sum_i c(w, i) (onehot(choice_i) - pi(. | context_i)), per component in `layout` order."""
    tables = {"sample": toy.sample, "decision": toy.decision}
    rows: dict[str, dict[tuple, np.ndarray]] = {"sample": {}, "decision": {}}
    for w in trajectories:
        for i, factor in enumerate(w.factors):
            score = -tables[factor.component][factor.context].copy()
            score[factor.choice] += 1.0
            old = rows[factor.component].get(factor.context, 0.0)
            rows[factor.component][factor.context] = old + w.probability * coefficient(w, i) * score
    return {name: toy.arrange(name, rows[name]) for name in rows}


def return_gradient(toy: Toy, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """grad J of the saturated policy, from values: sum over nodes of rho pi(v) (Q(v) - V), no score anywhere."""
    nodes = conditional(trajectories)
    tables = {"sample": toy.sample, "decision": toy.decision}
    rows: dict[str, dict[tuple, np.ndarray]] = {"sample": {}, "decision": {}}
    for component, context, node in {(f.component, f.context, f.node) for w in trajectories for f in w.factors}:
        pi = tables[component][context]
        after = [nodes.mean[child(Factor(component, context, node, v), v)] for v in range(len(pi))]
        old = rows[component].get(context, 0.0)
        rows[component][context] = old + nodes.mass[node] * pi * (np.array(after) - nodes.mean[node])
    return {name: toy.arrange(name, rows[name]) for name in rows}


def context_mass(toy: Toy, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """Expected visits to each context, in `layout` order."""
    visits: dict[tuple[str, tuple], float] = defaultdict(float)
    for w in trajectories:
        for f in w.factors:
            visits[f.component, f.context] += w.probability
    return {n: np.array([visits[n, c] for c in toy.layout(n)]) for n in ("sample", "decision")}


def fisher(toy: Toy, trajectories: Sequence[Trajectory], policy: Toy | None = None) -> dict[str, np.ndarray]:
    """f[N, N] over one component's logits: contexts by the trajectories, tokens by `policy` (default: `toy`)."""
    policy = policy or toy
    blocks = {}
    for name, visits in context_mass(toy, trajectories).items():
        pi = policy.arrange(name, getattr(policy, name))
        N, V = pi.shape
        F = np.zeros((N, V, N, V))
        for n in range(N):
            F[n, :, n, :] = visits[n] * (np.diag(pi[n]) - np.outer(pi[n], pi[n]))
        blocks[name] = F.reshape(N * V, N * V)
    return blocks


def kl(p: Sequence[Trajectory], q: Sequence[Trajectory]) -> float:
    """KL(P || Q) over trajectories listed in the same order."""
    return float(sum(a.probability * np.log(a.probability / b.probability) for a, b in zip(p, q, strict=True)))


def group_advantage(kind: str, own: float, others: Sequence[float], epsilon: float = 0.0) -> float:
    """The advantage of one member of a group, spelled out."""
    group = np.array([own, *others])
    if kind == "leave_one_out":
        return own - float(np.mean(others))
    if kind == "group_mean":
        return own - float(np.mean(group))
    if kind == "group_normalised":
        degenerate = group.max() == group.min()
        return 0.0 if degenerate else float((own - group.mean()) / (group.std() + epsilon))
    if kind == "maxrl":
        mean = float(np.mean(group))
        return (own - mean) / (mean + epsilon) if mean > 1e-12 else 0.0
    raise ValueError(kind)


def expected_group_advantage(
    kind: str, own: float, values: Sequence[float], law: Sequence[float] | np.ndarray, size: int, epsilon: float = 0.0
) -> float:
    """E[advantage | own reward]: every way to draw the other size - 1 members, one by one."""
    total = 0.0
    for draw in itertools.product(range(len(values)), repeat=size - 1):
        probability = float(np.prod([law[k] for k in draw]))
        total += probability * group_advantage(kind, own, [values[k] for k in draw], epsilon)
    return total

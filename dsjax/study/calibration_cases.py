"""Planted causes of known size, and what the accounting makes of them from drawn samples.

A memoryless policy on a task of few problems is two tables: the law of its answers, and P(STOP) at each. Planted sizes
are sums over these tables, exact up to rounding. What is found comes from N problems drawn from all of them, T answers
each, through the accounting that reports use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.evaluation.accounting import Terms, final_accuracy, shapley, three_terms
from dsjax.evaluation.deciders import BINS, bins_of
from dsjax.numerics import divide
from dsjax.policies import Params, Policy
from dsjax.statistics import Estimate
from dsjax.study.measures import Evaluated, Measures
from dsjax.tasks.base import TwoNumbers
from dsjax.training.config import BASE

PLANTED = "planted"
SCALES = {"three_terms": Terms._fields, "accuracy": ("sampler", "decider")}
COMPONENTS = {"sampler": ("trunks_sample", "sample_head"), "decider": ("trunks_decide", "decide_head")}


class World(NamedTuple):
    """All problems of a task of two short numbers, equally likely, and all answers to them."""

    prompt: np.ndarray  # i32[Q, P]
    answers: np.ndarray  # i32[A, L]
    right: np.ndarray  # f[Q, A] in {0, 1}

    @classmethod
    def of(cls, task: TwoNumbers) -> World:
        """Of a task that is small enough to write down."""
        question = np.array(list(itertools.product(range(10), repeat=2 * task.width)), np.int32)
        problems = task.problems(jnp.asarray(question.reshape(-1, 2, task.width)))
        answers = np.array(list(itertools.product(range(task.vocabulary), repeat=task.length)), np.int32)
        each = jnp.broadcast_to(jnp.asarray(answers), (len(question), *answers.shape))
        return cls(np.asarray(problems.prompt), answers, np.asarray(task.score(each, problems), float))


class Tabulated(NamedTuple):
    """A sampler and a decider as tables."""

    law: np.ndarray  # f[Q, A] P(answer)
    stop: np.ndarray  # f[Q, A] P(STOP | answer)


@jax.jit
def _tables(policy: Policy, params: Params, prompt: jax.Array, answers: jax.Array) -> tuple[Any, Any]:
    log_sample, log_decision = policy.log_dists(params, prompt, answers)
    drawn = jnp.take_along_axis(log_sample, answers[..., None], axis=-1)
    return drawn[..., 0].sum(-1), log_decision[..., 0]


def tabulated(policy: Policy, params: Params, world: World) -> Tabulated:
    """The tables of a policy without history: all answers side by side, as rounds that do not see each other."""
    each = np.broadcast_to(world.answers, (len(world.prompt), *world.answers.shape))
    law, stop = (np.exp(np.asarray(x, float)) for x in _tables(policy, params, world.prompt, each))
    return Tabulated(law / law.sum(1, keepdims=True), stop)


def between(base: Params, donor: Params, component: str, part: float) -> Params:
    """The base with this part of the way to the donor gone by the parameters of one component; separate trunks."""
    moved = {
        name: jax.tree.map(lambda x, y: (1 - part) * x + part * y, base[name], donor[name])
        for name in COMPONENTS[component]
    }
    return {**base, **moved}


def believed(world: World, base: Tabulated, flipped: float) -> np.ndarray:
    """f[Q, A]: P(STOP) of whoever imitates correctness labels without limit and sees the bin of the base's P(STOP).

    That is the fraction q of right answers in the bin (T16); with labels that are flipped with probability eta it is
    eta + (1 - 2 eta) q.
    """
    index = bins_of(base.stop)
    mass, right = (np.bincount(index.ravel(), x.ravel(), BINS) for x in (base.law, base.law * world.right))
    return flipped + (1 - 2 * flipped) * divide(right, mass)[index]


def planted_sizes(world: World, base: Tabulated, planted: Tabulated, rounds: int) -> dict[str, dict[str, float]]:
    """The parts of the change from the base, by scale: sums over all problems and answers, no sampling."""
    both = (base, planted)
    mean = [x.law / len(world.prompt) for x in both]
    p = np.array([(m * world.right).sum() for m in mean])
    stops = {
        r: np.array([[(m * y * x.stop).sum() / (m * y).sum() for x in both] for m in mean]) for r, y in _classes(world)
    }
    terms = three_terms(p, stops[1], stops[0])

    def accuracy(sampler: Tabulated, decider: Tabulated) -> np.ndarray:
        q = (sampler.law * world.right).sum(1)
        a, b = (divide((sampler.law * y * decider.stop).sum(1), (sampler.law * y).sum(1)) for _, y in _classes(world))
        return final_accuracy(q, a, b, rounds).mean()

    parts = shapley(accuracy, (base, base), (planted, planted))
    found = {"three_terms": terms._asdict(), "accuracy": parts._asdict()}
    return {scale: {part: float(found[scale][part]) for part in names} for scale, names in SCALES.items()}


def _classes(world: World) -> Iterator[tuple[int, np.ndarray]]:
    yield 1, world.right
    yield 0, 1 - world.right


class Case(NamedTuple):
    """One planted cause."""

    kind: str
    size: float  # of the dial that it was planted with
    policy: Tabulated
    apart: bool = False  # whether it draws answers of its own, independent of the base's


def cases(world: World, policy: Policy, models: Mapping[str, Params], dials: Mapping[str, Any]) -> list[Case]:
    """The planted causes, in their order.

    Args:
      world: the problems.
      policy: without history, with separate trunks.
      models: the parameters of the `base`, of a `donor` that both components come from, and of `noise`, a training
        with random rewards.
      dials: by kind, a list of sizes; a size that stands twice is planted twice.
    """
    base = tabulated(policy, models[BASE], world)

    def mixed(donor: str, **parts: float) -> Tabulated:
        params = models[BASE]
        for component, part in parts.items():
            params = between(params, models[donor], component, part)
        found = tabulated(policy, params, world)
        return Tabulated(found.law if "sampler" in parts else base.law, found.stop if "decider" in parts else base.stop)

    plant: dict[str, Callable[[float], Tabulated]] = {
        "decider": lambda x: mixed("donor", decider=x),
        "sampler": lambda x: mixed("donor", sampler=x),
        "both": lambda x: mixed("donor", sampler=x, decider=x),
        "opposed": lambda x: mixed("donor", sampler=x, decider=-x),
        "neither": lambda _: base,
        "flipped labels": lambda eta: Tabulated(base.law, believed(world, base, eta)),
        "shuffled labels": lambda _: Tabulated(
            base.law, np.full_like(base.stop, (base.law * world.right).sum(1).mean())
        ),
        "random reward": lambda x: mixed("noise", sampler=x, decider=x),
    }
    return [Case(kind, size, plant[kind](size), kind == "neither") for kind, sizes in dials.items() for size in sizes]


def evaluated(
    world: World, base: Tabulated, case: Case, rounds: int, problems: int, rng: np.random.Generator
) -> Evaluated:
    """Drawn problems and answers of both models and every verdict on them, as an evaluation stores it.

    The models share their random numbers, as in an evaluation, unless the case is `apart`.
    """
    q_N = rng.integers(len(world.prompt), size=problems)
    u_NxT = rng.random((problems, rounds))
    answer_MxNxT = np.stack(
        [
            _drawn(base.law, q_N, u_NxT),
            _drawn(case.policy.law, q_N, rng.random(u_NxT.shape) if case.apart else u_NxT),
        ]
    )
    models = (base, case.policy)
    log_stop = np.array([[np.log(model.stop[q_N[:, None], y]) for model in models] for y in answer_MxNxT])
    right = world.right[q_N[:, None], answer_MxNxT] > 0.5
    own = np.stack([log_stop[i, i] for i in range(2)])
    return Evaluated((BASE, PLANTED), right, world.answers[answer_MxNxT], own, log_stop)


def _drawn(law: np.ndarray, q_N: np.ndarray, u_NxT: np.ndarray) -> np.ndarray:
    """i[N, T] numbers of answers, by inverting the distribution function."""
    below_NxA = np.cumsum(law, axis=1)[q_N]
    drawn = (below_NxA[:, None, :] <= u_NxT[..., None]).sum(-1)
    return np.minimum(drawn, law.shape[1] - 1)


def found_sizes(e: Evaluated, resamples: int) -> dict[str, dict[str, Estimate]]:
    """What the accounting of the reports says about the planted model less the base."""
    measures = Measures([e], "none", resamples)
    return {
        scale: {part: measures.part(scale, part, PLANTED, BASE).estimate() for part in parts}
        for scale, parts in SCALES.items()
    }


def holds(estimate: Estimate, planted: float) -> bool:
    """Whether the interval has the planted size; what cannot move has an interval of one point, up to rounding."""
    slack = 1e-12
    return bool(estimate.low - slack <= planted <= estimate.high + slack)

"""Instances at the edge of what a statement allows: one in four of each shape, drawn by the program of the others.

Controls are asked to be rejected by ordinary instances only: at an edge a wrong variant can be right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.policies import Params
from dsjax.process import DecisionSamplingProcess
from proofs_check.instances import Instance, Shape, enumerated

EVERY = 4  # of so many instances the last one is extreme
SHARPNESS = 8.0
RARE_MASS = 1e-6
OfShape = Callable[[Any], bool]


class Extreme(NamedTuple):
    """A kind of edge and the shapes that have one."""

    text: str
    of: Callable[[Shape], bool]


EXTREMES: dict[str, Extreme] = {
    "sharp": Extreme(f"logits x {SHARPNESS:g}", lambda shape: True),
    "rare": Extreme(f"a prompt of mass {RARE_MASS:g}", lambda shape: shape.prompts >= 2),
    "dear": Extreme("c >= 1", lambda shape: shape.cost),
    "tie": Extreme("a tie r = V - c", lambda shape: shape.rounds >= 2 and (shape.graded or shape.cost)),
    "same": Extreme("policy = reference", lambda shape: True),
}


class Spared(NamedTuple):
    """What is left out at one extreme, and why.

    Attributes:
      extreme: of `EXTREMES`.
      why: in words.
      claims: names of those that are not about it, or not measurable there (of an equation with a margin, the margin);
        none: no instance of it is drawn.
      when: shapes for which it is left out.
    """

    extreme: str
    why: str
    claims: tuple[str, ...] = ()
    when: OfShape = lambda shape: True


WITHOUT_REFERENCE = Spared("same", "no reference policy is in the statement")
WITHOUT_COST = (Spared("dear", "the statement is about c = 0"), Spared("tie", "binary and c = 0: 0 < V < 1 is never r"))
WITHOUT_REWARD = (Spared("dear", "no return is in the statement"), Spared("tie", "no return is in the statement"))


def without_pushes(*claims: str) -> Spared:
    """Claims about gradients per visit, or about their signs."""
    why = "1 - P(STOP) is a difference: per visit a push is known to EPS/P(the less likely decision), up to 1 and more"
    return Spared("sharp", why, claims)


def plain(shape: Any) -> Any:
    """The process and policy that a theorem's own shape is made from."""
    return getattr(shape, "base", shape)


def kinds(shape: Any, spared: tuple[Spared, ...] = ()) -> tuple[str, ...]:
    """Names of the extremes of a shape, in the order in which instances take turns."""
    base = plain(shape)
    if not isinstance(base, Shape):
        return ()
    left_out = {s.extreme for s in spared if not s.claims and s.when(shape)}
    return tuple(name for name, extreme in EXTREMES.items() if extreme.of(base) and name not in left_out)


def turn(index: Any, number: int) -> Any:
    """Which of so many kinds the instance of that index is: 0, 1, .., or -1 for an ordinary one."""
    if not number:
        return -1
    where = jnp.where if isinstance(index, jax.Array) else np.where
    return where(index % EVERY == EVERY - 1, index // EVERY % number, -1)


def _sharpened(params: Params) -> Params:
    """Logits x SHARPNESS: tables and features are linear in the parameters; of a network, its heads are."""

    def scaled(path: Any, x: jax.Array) -> jax.Array:
        return x if "trunks" in jax.tree_util.keystr(path) else SHARPNESS * x

    return jax.tree_util.tree_map_with_path(scaled, params)


def _tied(instance: Instance) -> DecisionSamplingProcess:
    """The process with a tie in round T - 1 of the first prompt: at its worst answer by the cost, else by a reward.

    V there is `sum_y pi(y) r(y)` over the last answer: no decision and no cost is left in it.
    """
    process, shape = instance.process, instance.shape
    last = process.tables(enumerated(instance)[1]).log_sample[-1]
    law, reward = jnp.exp(last[0, : process.num_answers]), process.reward_table[0]  # f[A before, A], f[A]
    if shape.cost:
        y = jnp.argmin(reward)
        return process.replace(cost=jnp.sum(law[y] * reward) - reward[y])
    # V = r(0) pi(0) + rest = r(0).
    tied = jnp.sum((law[0] * reward)[1:]) / jnp.sum(law[0, 1:])
    return process.replace(reward_table=process.reward_table.at[0, 0].set(tied))


def at_extreme(drawn: Any, number: Any, names: tuple[str, ...]) -> Any:
    """The instance, or the one inside of a theorem's own, moved to the edge of that number in `names`; -1: as it is."""
    if not names:
        return drawn
    if not isinstance(drawn, Instance):
        return drawn.replace(instance=at_extreme(drawn.instance, number, names))
    process, params, reference = drawn.process, drawn.params, drawn.reference

    def choose(name: str, there: Any, here: Any) -> Any:
        """One of two pytrees; what an instance has not is not computed."""
        return jax.tree.map(lambda x, y: jnp.where(number == names.index(name), x, y), there, here)

    if "sharp" in names:
        sharp = _sharpened(params)
        moved = jax.tree.map(lambda ref, x, y: ref + (x - y), reference, sharp, params)
        params, reference = choose("sharp", sharp, params), choose("sharp", moved, reference)
    if "same" in names:
        reference = choose("same", params, reference)
    if "rare" in names:
        others = process.prompt_law[1:]
        rare = jnp.concatenate([jnp.full(1, RARE_MASS), (1.0 - RARE_MASS) * others / jnp.sum(others)])
        process = process.replace(prompt_law=choose("rare", rare, process.prompt_law))
    if "dear" in names:  # from [0.05, 0.3] to [1.2, 2.2]
        process = process.replace(cost=choose("dear", 1.0 + 4.0 * process.cost, process.cost))
    drawn = drawn.replace(process=process, params=params, reference=reference)
    if "tie" in names:
        tied = _tied(drawn)
        drawn = drawn.replace(
            process=process.replace(
                cost=choose("tie", tied.cost, process.cost),
                reward_table=choose("tie", tied.reward_table, process.reward_table),
            )
        )
    return drawn

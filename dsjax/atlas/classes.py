"""What "balanced" can mean, for any objective (docs/theory.md, T20): two questions with answers of their own.

*Coefficients*: has every trajectory one coefficient on all of its tokens? Asked at random log-probs, near and far.

*Filler*: what happens to the decision share as unread tokens are appended to every answer? Their energy is
`m e_f, e_f = n Var_phi(k)`, and the rest of the gradient, in units of a filler token's, is constant in m, or affine
along the gradient of the number of attempts, or neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.atlas.laws import Scenario, Structure, on_policy, parameters, structure, structured_logp, trajectories
from dsjax.atlas.measure import gradient, inverse_fisher, softmaxes, visits_of
from dsjax.attribution import coefficients, share, token_spread
from dsjax.numerics import compile_quickly
from dsjax.objectives import Objective
from dsjax.trajectories import Trajectories

ROUNDING = 1e-9  # relative: what counts as equal, or as zero
FELT = 1e-3  # relative: growth of the rest of the gradient that is told from the curvature of a weak coupling
LENGTHS = (2, 9, 20, 32)  # tokens of an answer, the first of them read
MOVES = (1e-4, 0.3, 1.5)  # how far log-probs are moved, in units of their own: within and far beyond any clip


class Classes(NamedTuple):
    """The two answers."""

    coefficients: str  # one of `COEFFICIENTS`
    filler: str  # one of `FILLER`


COEFFICIENTS = {
    "always": "one coefficient on all tokens of a trajectory, at all log-probs: a function of sequence sums",
    "on-policy": "one coefficient as long as the policy is the one that drew the tokens",
    "never": "coefficients differ from token to token",
}
FILLER = {
    "none": "filler gets nothing and the decision share does not feel it: energy-balanced",
    "tilted": "filler gets nothing, but its number re-weights trajectories against each other",
    "per token": "every filler token gets the same: the share falls as 1/L",
    "per attempt": "every filler token gets the same and is a price on each attempt: the share tends to that price's",
    "coupled": "what a filler token gets depends on how many there are",
    "undefined": "no expected gradient at all",
}


class Moved(struct.PyTreeNode):
    """The gradient without filler and filler's energy, by number of filler tokens m; leading axis: lengths."""

    filler: jax.Array  # f[N]: m
    rest: jax.Array  # f[N, P]: gradient on everything but filler
    energy: jax.Array  # f[N]: e_f of one filler token
    energy_sample: jax.Array  # f[N]: E_s without filler
    energy_decision: jax.Array  # f[N]: E_d
    square: jax.Array  # f[N]: E[sum k^2], which bounds all energies together (Projection, docs/theory.md)
    price: jax.Array  # f[P]: gradient of -E[tau], or of any other payoff that a price per attempt would follow


def filler_class(x: Moved) -> str:
    """One of `FILLER`; the lengths must be three at least."""
    x = jax.device_get(x)

    def zero(energy: jax.Array) -> bool:
        return bool((energy <= ROUNDING**2 * x.square).all())

    if zero(x.energy_sample + x.energy_decision + x.filler * x.energy):
        return "undefined"
    if zero(x.energy):
        shares = share(x.energy_decision, x.energy_sample)
        return "none" if np.ptp(shares) <= ROUNDING else "tilted"
    # In units of a filler token: normalisers that all tokens share drop out.
    rest = x.rest / np.sqrt(x.energy)[:, None]
    size = np.abs(rest).max()
    grown = rest[-1] - rest[0]
    part = (x.filler - x.filler[0]) / (x.filler[-1] - x.filler[0])
    curved = np.abs(rest - rest[0] - part[:, None] * grown).max()
    along = x.price * (x.price @ grown) / (x.price @ x.price)
    if np.abs(grown).max() <= ROUNDING * size and curved <= ROUNDING * size:
        return "per token"
    affine = curved <= ROUNDING * size and np.abs(grown - along).max() <= ROUNDING * size
    return "per attempt" if affine and np.abs(grown).max() >= FELT * size else "coupled"


def coefficient_class(on_policy: np.ndarray, off_policy: np.ndarray) -> str:
    """One of `COEFFICIENTS`, from `token_spread` at the log-probs that drew the tokens and at others."""
    if (np.concatenate([on_policy, off_policy]) <= ROUNDING).all():
        return "always"
    return "on-policy" if (on_policy <= ROUNDING).all() else "never"


class _Seen(struct.PyTreeNode):
    """What an objective is asked on: lengths with the policy's log-probs, then the longest with moved ones."""

    structures: Structure
    traj: Trajectories
    logp: jax.Array  # f[N + M, B, S]


def _seen(scenario: Scenario, structures: Structure, moves: jax.Array) -> _Seen:
    params = parameters(scenario.policy, scenario.num_prompts)

    def one(x: Structure, move_BxS: jax.Array) -> tuple[Trajectories, jax.Array]:
        return trajectories(scenario, x, LENGTHS[-1]), structured_logp(params, x, LENGTHS[-1]) * move_BxS

    return _Seen(structures, *jax.vmap(one)(structures, moves))


def _analyse(scenario: Scenario, c_NxBxS: jax.Array, seen: _Seen) -> tuple[jax.Array, Moved]:
    """(`token_spread` of all, filler at all lengths)."""
    policy, Q = scenario.policy, scenario.num_prompts
    law = softmaxes(policy)

    def at(x: Structure, traj: Trajectories, c_BxS: jax.Array) -> Moved:
        G = gradient(policy, c_BxS, x)
        energy = inverse_fisher(G, G, visits_of(x, Q), law)
        attempts_B = 1.0 + x.stop_round.astype(x.weight.dtype)
        tau = gradient(policy, jnp.where(traj.mask, (x.weight * -attempts_B)[:, None], 0.0), x)
        k_BxS = jnp.where((x.weight > 0)[:, None], c_BxS / jnp.where(x.weight > 0, x.weight, 1.0)[:, None], 0.0)
        return Moved(
            filler=(x.length - 1).astype(x.weight.dtype),
            rest=jnp.concatenate([G.first.ravel(), G.decision.ravel()]),
            energy=energy.filler,
            energy_sample=energy.first,
            energy_decision=energy.decision,
            square=jnp.sum(x.weight[:, None] * k_BxS**2),
            price=jnp.concatenate([tau.first.ravel(), tau.decision.ravel()]),
        )

    spread = jax.vmap(token_spread)(c_NxBxS, seen.traj)
    first = jax.tree.map(lambda x: x[: len(LENGTHS)], (seen.structures, seen.traj, c_NxBxS))
    moved = jax.vmap(at)(*first)
    return spread, moved.replace(price=moved.price[0])


@dataclass(frozen=True)
class Classifier:
    """A scenario with everything that all objectives share; make it and use it inside of `numerics.exact()`."""

    seen: dict[bool, _Seen]  # by demonstrations
    asked: dict[bool, list[tuple[jax.Array, Trajectories]]]  # the same one by one: (logp_BxS, trajectories)
    analyse: Callable[[jax.Array, _Seen], tuple[jax.Array, Moved]]

    @classmethod
    def of(cls, scenario: Scenario) -> Classifier:
        """The classifier on a scenario."""
        lengths = (*LENGTHS, *[LENGTHS[-1]] * len(MOVES))
        laws = {False: on_policy(scenario), True: scenario.demonstrator}
        structures = {
            shown: jax.tree.map(lambda *x: np.stack(x), *(structure(scenario, law, n) for n in lengths))
            for shown, law in laws.items()
        }
        N, B = structures[False].weight.shape
        noise = np.random.default_rng(0).normal(size=(N, B, 2 * (LENGTHS[-1] + 1)))
        sizes = np.array([0.0] * len(LENGTHS) + list(MOVES))
        moves = jnp.asarray(np.exp(sizes[:, None, None] * noise))
        build = compile_quickly(partial(_seen, scenario), structures[False], moves)
        seen = {shown: build(x, moves) for shown, x in structures.items()}
        each = {shown: jax.device_get((x.logp, x.traj)) for shown, x in seen.items()}
        asked = {shown: [jax.tree.map(lambda x, i=i: x[i], x) for i in range(N)] for shown, x in each.items()}
        return cls(seen, asked, compile_quickly(partial(_analyse, scenario), seen[False].logp, seen[False]))

    def __call__(self, objective: Objective, demonstrations: bool = False) -> Classes:
        """The classes of an objective that sees the policy's own trajectories, or demonstrations."""
        ask = compile_quickly(partial(coefficients, objective), *self.asked[demonstrations][0])
        return self.of_coefficients(ask, demonstrations)

    def of_coefficients(self, ask: Callable[..., jax.Array], demonstrations: bool = False) -> Classes:
        """The same of an objective whose `coefficients` are compiled for the shapes of `asked`."""
        c_NxBxS = jnp.asarray(np.stack([ask(*each) for each in self.asked[demonstrations]]))
        spread, moved = jax.device_get(self.analyse(c_NxBxS, self.seen[demonstrations]))
        at = len(LENGTHS)
        return Classes(coefficient_class(spread[:at], spread[at:]), filler_class(moved))

"""T12: dividing by the group's standard deviation is, on average, one factor a prompt and none between components."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from itertools import pairwise
from math import comb, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dsjax.attribution import component_gradients, energies
from dsjax.objectives import Objective, grpo, reinforce, rloo
from dsjax.objectives.advantages import advantage
from dsjax.policies import Params
from proofs_check import instances
from proofs_check.closed_forms import component_logp, martingale_energies
from proofs_check.extremes import WITHOUT_REFERENCE
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import MIXED_IF_BINARY
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

GROUP = 4  # the smallest group that re-weights
SIZES = (2, 3, 4, 8, 64)
EPSILON = 0.1  # a large one, so that leaving it out would be seen

normalised = partial(reinforce, baseline="group_normalised")
summed = partial(normalised, group_size=GROUP, epsilon=0.0)
smoothed = partial(normalised, group_size=GROUP, epsilon=EPSILON)
token_mean = partial(grpo, group_size=GROUP, epsilon=0.0)
centred = partial(reinforce, baseline="group_mean", group_size=GROUP)


def _returns(shape: Shape) -> bool:
    """Whether returns are other than 0 and 1."""
    return shape.graded or shape.cost


def _objectives(shape: Shape) -> dict[str, Objective]:
    """Each shape has its own, since a gradient's program takes longer to compile than to run."""
    if _returns(shape):
        return {"centred": centred, "leave one out": rloo}
    if not shape.saturated:
        return {"summed": summed}
    if shape.rounds == 1:
        return {"summed": summed, "smoothed": smoothed, "token mean": token_mean}
    return {"summed": summed, "token mean": token_mean}


def mean_of_group(p_Q: jax.Array, size: int, value: Callable[[np.ndarray], np.ndarray]) -> jax.Array:
    """f[Q]: E[value(std_G)] with std_G = sqrt(k (G-k))/G, k ~ Bin(G, p), by the definition."""
    k = np.arange(size + 1.0)
    ways = np.array([float(comb(size, i)) for i in range(size + 1)])
    weights = ways * value(np.sqrt(k * (size - k)) / size)
    p_Qx1 = p_Q[:, None]
    return jnp.sum(weights[None] * p_Qx1 ** k[None] * (1.0 - p_Qx1) ** (size - k)[None], axis=-1)


def factor(p_Q: jax.Array, size: int, epsilon: float = 0.0) -> jax.Array:
    """f[Q]: c_G(p); degenerate groups give 0."""

    def value(std: np.ndarray) -> np.ndarray:
        return std**2 / np.where(std > 0, std + epsilon, 1.0)

    return mean_of_group(p_Q, size, value) / (p_Q * (1.0 - p_Q))


class Setting(instances.Setting):
    """Gradients of the objectives that the shape is there for, and of each prompt's success probability."""

    def __init__(self, instance: Instance):
        super().__init__(instance)

        def success(sampler: Any, decider: Any) -> tuple[jax.Array, jax.Array]:
            """V_1(q) f[Q], which is p_q for a binary verifier, with each component at its own parameters; twice."""
            logp = component_logp(self.policy, sampler, decider, self.traj)
            V = self.process.values(self.process.tables(logp), self.returns).V[0][:, 0]
            return V, V

        # (grad p_q through pi_sample, through pi_d) by autodiff of the backward recursion, leading axis Q; p_q.
        self.exact, self.p = jax.jacrev(success, argnums=(0, 1), has_aux=True)(self.params, self.params)
        self.gradients = {
            name: component_gradients(self.policy, self.params, self.traj, objective)
            for name, objective in self.objectives().items()
        }

    def objectives(self) -> dict[str, Objective]:
        """What the shape is there for."""
        return _objectives(self.shape)

    def mixed(self, jacobian: Params, c_Q: jax.Array | float = 1.0) -> Params:
        """The gradient of sum_q mu(q) c(q) p_q."""
        return jax.tree.map(lambda x: jnp.tensordot(self.process.prompt_law * c_Q, x, 1), jacobian)

    def gap(self, name: str, c_Q: jax.Array | float) -> jax.Array:
        """Distance of an objective's (G_s, G_d) from that, component by component."""
        measured, (exact_s, exact_d) = self.gradients[name], self.exact
        distance_d = gap(measured.decision, self.mixed(exact_d, c_Q))
        return jnp.maximum(gap(measured.sample, self.mixed(exact_s, c_Q)), distance_d)

    @cached_property
    def of_return(self) -> Params:
        """The gradient of J."""
        return self.mixed(jax.tree.map(jnp.add, *self.exact))

    @cached_property
    def c(self) -> dict[int, jax.Array]:
        """f[Q] for each size, of GRPO."""
        return {size: self.factor_of("group_normalised", size) for size in SIZES}

    def factor_of(self, name: str, size: int, epsilon: float = 0.0) -> jax.Array:
        """f[Q]: how much more an advantage weighs a right trajectory than a wrong one, as measured."""
        traj = self.traj
        of_prompt = traj.prompt[:, 0][None, :] == jnp.arange(self.p.size, dtype=traj.prompt.dtype)[:, None]
        A_B = advantage(name, traj.reward, traj, group_size=size, epsilon=epsilon)

        def mean(right: bool) -> jax.Array:
            chosen = of_prompt & ((traj.reward > 0.5) == right)[None, :]
            return jnp.mean(jnp.broadcast_to(A_B[None, :], chosen.shape), axis=-1, where=chosen)

        return mean(True) - mean(False)


def _first_prompt(gradient: Params) -> Params:
    """The part on the first prompt's own contexts (saturated: every prompt has its own)."""
    return jax.tree.map(lambda x: x.at[1:].set(0.0), gradient)


def no_factor(direction: Any, gradient: Any) -> jax.Array:
    """Distance of the gradient, scaled to length 1, from its best multiple of the direction."""
    g, h = ravel_pytree(gradient)[0], ravel_pytree(direction)[0]
    return gap(g / jnp.sqrt(g @ g), h * (g @ h) / (h @ h) / jnp.sqrt(g @ g))


THEOREM = Theorem(
    STATEMENTS["T12"],
    shapes=(
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=1, length=2, vocabulary=3, prompts=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=4, prompts=2, shared=9),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, network=True),
        Shape(rounds=2, length=4, vocabulary=2, prompts=2, shared=4),
        Shape(rounds=2, length=5, vocabulary=2, prompts=2, history="none", shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", graded=True, shared=4),
    ),
    spared=(WITHOUT_REFERENCE,),
    requires=(MIXED_IF_BINARY,),
    prepare=Setting,
    telling=lambda shape: not shape.network,
)
returns = THEOREM.on(_returns)
binary = THEOREM.on(lambda shape: not _returns(shape))
one_round = THEOREM.on(lambda shape: not _returns(shape) and shape.saturated and shape.rounds == 1)
rounds = THEOREM.on(lambda shape: not _returns(shape) and shape.saturated and shape.rounds >= 2)

_summed = binary.equation(
    "GRPO, sequence sum: G_s and G_d are those of sum_q mu(q) c_G(p_q) p_q",
    lambda s: s.gap("summed", factor(s.p, GROUP)),
)
_smoothed = one_round.equation(
    "epsilon > 0: the same with c = E[std^2 / (std + epsilon)] / (p (1-p))",
    lambda s: s.gap("smoothed", factor(s.p, GROUP, EPSILON)),
)
_one_round = one_round.equation(
    "GRPO, token mean, T = 1: the same with c_G / L",
    lambda s: s.gap("token mean", factor(s.p, GROUP) / s.shape.length),
)
_baseline = returns.equation(
    "group-mean baseline: (G-1)/G grad J; leave-one-out: exactly grad J (any verifier, any cost)",
    lambda s: jnp.maximum(s.gap("centred", (GROUP - 1) / GROUP), s.gap("leave one out", 1.0)),
)


def _energies(s: Setting, c_Q: jax.Array) -> jax.Array:
    """Distance of (E_s, E_d) from what T3 gives for the payoff c(q) R: c(q)^2 times those of p_q, prompt by prompt."""
    payoff = s.returns * c_Q[s.traj.prompt[:, 0]]
    values = s.process.values(s.tables, payoff)
    merged = s.shape.history == "none"
    stated = martingale_energies(s.process, s.tables, values, s.visitation, merged=merged)
    return gap(energies(s.policy, s.params, s.traj, s.gradients["summed"]), stated)


_energy = rounds.equation(
    "GRPO, sequence sum: E_s and E_d at a prompt are c_G(p)^2 times those of p (T3)",
    lambda s: _energies(s, factor(s.p, GROUP)),
    ENERGY,
)


# gammaln(64) = 200 nats stand in an exponent, and A <= 8: 200 x 8 x a few EPS.
_factor = one_round.equation(
    "c_G = A(right) - A(wrong) = E[std_G] / (p (1-p))",
    lambda s: jnp.max(jnp.stack([gap(s.c[G], factor(s.p, G)) for G in SIZES])),
)
one_round.equation(
    "c_2 = 1 and c_3 = sqrt(2), whatever p",
    lambda s: jnp.maximum(gap(s.c[2], jnp.ones_like(s.p)), gap(s.c[3], jnp.full_like(s.p, sqrt(2)))),
)


@one_round.inequality("G >= 4: 2 (G-1)/G < c_G < sqrt(G-1)", strict=True)
def _range(s: Setting) -> jax.Array:
    """These bounds do not shrink with p; they are equalities at G = 2 and 3."""
    slack = [jnp.minimum(s.c[G] - 2 * (G - 1) / G, sqrt(G - 1) - s.c[G]) for G in SIZES if G >= 4]
    return jnp.min(jnp.stack(slack))


@one_round.inequality("1 - (1 + 1/(p (1-p)))/(2 G) < c_G sqrt(p (1-p)) < sqrt(1 - 1/G)", strict=True)
def _limit(s: Setting) -> jax.Array:
    """Bounds that meet as G grows, in units of the limit 1/sqrt(p (1-p))."""
    v = s.p * (1.0 - s.p)
    scaled = {G: s.c[G] * jnp.sqrt(v) for G in SIZES}
    slack = [jnp.minimum(sqrt(1 - 1 / G) - x, x - 1 + (1 + 1 / v) / (2 * G)) for G, x in scaled.items()]
    return jnp.min(jnp.stack(slack))


one_round.inequality(
    "c_G grows with G", lambda s: jnp.min(jnp.stack([s.c[b] - s.c[a] for a, b in pairwise(SIZES)])), strict=True
)

binary.control(
    "the limit 1/sqrt(p (1-p)) at G = 4", _summed, lambda s: s.gap("summed", 1.0 / jnp.sqrt(s.p * (1.0 - s.p)))
)
binary.control("c_(G-1) for c_G", _summed, lambda s: s.gap("summed", factor(s.p, GROUP - 1)))
one_round.control("epsilon left out", _smoothed, lambda s: s.gap("smoothed", factor(s.p, GROUP)))
rounds.control("energies of REINFORCE", _energy, lambda s: _energies(s, jnp.ones_like(s.p)))
rounds.control(
    "GRPO, token mean, T >= 2: one factor for all contexts of a prompt",
    _one_round,
    lambda s: no_factor(_first_prompt(s.of_return), _first_prompt(s.gradients["token mean"].total)),
)
binary.control(
    "GRPO, sequence sum: one factor for all prompts",
    _summed,
    lambda s: no_factor(s.of_return, s.gradients["summed"].total),
)
returns.control("group-mean baseline said to be unbiased", _baseline, lambda s: s.gap("centred", 1.0))
one_round.control(
    "standard deviation over G - 1",
    _factor,
    lambda s: gap(s.c[GROUP], factor(s.p, GROUP) * sqrt((GROUP - 1) / GROUP)),
)

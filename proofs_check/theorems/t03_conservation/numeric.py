"""T3: the variance of the return is the energy budget of the reward gradient."""

from __future__ import annotations

from functools import cached_property

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dsjax.attribution import component_gradients, energy, fisher
from dsjax.numerics import divide
from dsjax.objectives import reinforce
from dsjax.process import Values
from proofs_check import instances
from proofs_check.closed_forms import late_baseline, martingale_energies
from proofs_check.extremes import WITHOUT_REFERENCE
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import ENERGY, SUM, gap, shortfall
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

NEAR = 1e-3  # sine of the angle between two features, or so


def variance(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Variance of x under a law."""
    return jnp.sum(weight * (x - jnp.sum(weight * x)) ** 2)


class Setting(instances.Setting):
    """Measured energies and both sides of the decomposition."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        self.gradients = component_gradients(self.policy, self.params, self.traj, reinforce)
        self.fishers = fisher(self.policy, self.params, self.traj)
        self.E_s = energy(self.gradients.sample, self.fishers[0])
        self.E_d = energy(self.gradients.decision, self.fishers[1])
        self.S, self.D = self.sum_squares(self.values)
        self.var = variance(self.traj.weight, self.returns)
        self.between = variance(self.process.prompt_law, self.values.V[0][:, 0])
        self.slack = self.S - self.E_s, self.D - self.E_d, self.var - self.E_s - self.E_d

    def sum_squares(self, values: Values, *, merged: bool = False) -> tuple[jax.Array, jax.Array]:
        """(sum E[(A^s)^2], sum E[(A^d)^2]); `merged`: of advantages averaged over the visits of a context."""
        return martingale_energies(self.process, self.tables, values, self.visitation, merged=merged)

    @cached_property
    def nearly_collinear(self) -> jax.Array:
        """E_s in parameters theta that all move the logits of a softmax almost alike: logits = M theta.

        Each parameter moves the first token's logit by 1, and all but the first one move one of their own by NEAR.
        """
        _, unravel = ravel_pytree(self.params)

        def transposed(x: jax.Array) -> jax.Array:
            """M^T x."""
            tree = jax.tree.map(lambda y: y.at[..., 1:].set(y[..., :1] + NEAR * y[..., 1:]), unravel(x))
            return ravel_pytree(tree)[0]

        gradient = unravel(transposed(ravel_pytree(self.gradients.sample)[0]))
        half = jax.vmap(transposed)(self.fishers[0])
        return energy(gradient, jax.vmap(transposed)(half.T))


def _tables(shape: Shape) -> bool:
    return not shape.network


def tight_s(shape: Shape) -> bool:
    """Whether the sampler has a free softmax for each context and round."""
    return shape.saturated and shape.sampler_sees


def tight_d(shape: Shape) -> bool:
    """Whether the decider does."""
    return shape.saturated and shape.decider_sees


THEOREM = Theorem(
    STATEMENTS["T3"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, prompts=2, graded=True, cost=True),
        Shape(rounds=2, length=1, vocabulary=4, prompts=3),
        # The slack is quadratic in differences of values between rounds; over three prompts they are not all small.
        Shape(rounds=3, length=1, vocabulary=3, prompts=3, history="none"),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=4, length=1, vocabulary=2, history="none", cost=True, shared=4),
        Shape(rounds=2, length=3, vocabulary=2, history="none", graded=True),
        Shape(rounds=1, length=2, vocabulary=5, graded=True, shared=4),
        Shape(rounds=2, length=4, vocabulary=2, shared=4),
        Shape(rounds=2, length=5, vocabulary=2, history="none", shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(WITHOUT_REFERENCE,),
    tolerance=ENERGY,
    prepare=Setting,
    telling=_tables,  # a network can also be rich enough for equality
)

everywhere, tables = THEOREM.on(), THEOREM.on(_tables)
free_s, free_d = THEOREM.on(tight_s), THEOREM.on(tight_d)
blind_s = THEOREM.on(lambda shape: shape.saturated and not shape.sampler_sees)
blind_d = THEOREM.on(lambda shape: shape.saturated and not shape.decider_sees)

SUM_S, SUM_D = "sum E[(A^s)^2]", "sum E[(A^d)^2]"

conserved = everywhere.equation(
    f"Var(R) = Var_q[V_1] + {SUM_S} + {SUM_D}", lambda s: gap(s.between + s.S + s.D, s.var), SUM
)
tables.inequality(f"E_s <= {SUM_S}", lambda s: s.slack[0], tight=tight_s)
tables.inequality(f"E_d <= {SUM_D}", lambda s: s.slack[1], tight=tight_d)
equal_s = free_s.equation(f"E_s = {SUM_S}, a softmax per context and round", lambda s: gap(s.E_s, s.S))
# Between two such features 1 - cos^2 is NEAR^2/4 or more, and the energy divides by it: 4 P EPS/NEAR^2 for P <= 100.
collinear = free_s.equation(
    f"E_s = {SUM_S}, a softmax whose features are nearly collinear", lambda s: gap(s.nearly_collinear, s.S), 1e-7
)
equal_d = free_d.equation(f"E_d = {SUM_D}, a softmax per context and round", lambda s: gap(s.E_d, s.D))
blind_s.inequality(f"E_s < {SUM_S}, one softmax for several rounds", lambda s: s.slack[0], strict=True)
blind_d.inequality(f"E_d < {SUM_D}, one softmax for several rounds", lambda s: s.slack[1], strict=True)
THEOREM.on(lambda shape: shape.saturated and shape.history == "none").equation(
    "one softmax for several rounds: energy of the round-averaged advantage",
    lambda s: gap((s.E_s, s.E_d), s.sum_squares(s.values, merged=True)),
)
tables.inequality(
    "E_s + E_d <= Var(R)",
    lambda s: s.slack[2],
    tight=lambda shape: tight_s(shape) and tight_d(shape) and shape.prompts == 1,
)
THEOREM.on(lambda shape: _tables(shape) and not shape.cost).inequality(
    "Var(R) <= 1/4 for rewards in [0, 1] and c = 0", lambda s: 0.25 - s.var, SUM
)
# A network's Fisher matrix can have any small eigenvalue x. Its gradient has a part <= |A| sqrt(x) along that
# direction, with rounding EPS: the energy is off by 2 EPS/sqrt(x), x above the rank cut 8 P EPS: 1e-9 for P <= 100,
# times sqrt(P) directions.
THEOREM.on(lambda shape: shape.network).equation(
    "transformer: E_s and E_d within their bounds, E_s + E_d <= Var(R)",
    lambda s: shortfall(jnp.min(jnp.stack(s.slack))),
    1e-8,
)


@THEOREM.on(lambda shape: shape.rounds >= 2).control("V_t for V_(t+1) in the advantage of RESAMPLE", conserved)
def _late(s: Setting) -> jax.Array:
    return gap(s.between + sum(s.sum_squares(late_baseline(s.values))), s.var)


# Two prompts can have values that agree by chance to the square root of the tolerance; three do not.
THEOREM.on(lambda shape: shape.prompts >= 3).control("Var_q[V_1] left out", conserved, lambda s: gap(s.S + s.D, s.var))
blind_s.control("equality claimed for a sampler that cannot see the round", equal_s, lambda s: gap(s.E_s, s.S))
blind_d.control("equality claimed for a decider that cannot see the round", equal_d, lambda s: gap(s.E_d, s.D))


@THEOREM.on(lambda shape: tight_s(shape) and shape.vocabulary >= 3).control(
    "nearly collinear features taken as one", collinear
)
def _one_feature(s: Setting) -> jax.Array:
    """All that is left if directions this weak count as null: the first token's logit alone in every context."""
    diagonal = ravel_pytree(s.params)[1](jnp.diagonal(s.fishers[0]))["sample"][..., 0]
    alone = divide(s.gradients.sample["sample"][..., 0] ** 2, diagonal)
    return gap(jnp.sum(alone), s.S)


# Of one token out of two the sampler has a single logit: only differences of values between rounds tell, and they can
# be as small as rounding (one instance in some thousands).
THEOREM.on(lambda shape: bool(shape.shared) and shape.length > 1).control(
    "equality claimed for shared parameters", equal_s, lambda s: gap(s.E_s, s.S)
)

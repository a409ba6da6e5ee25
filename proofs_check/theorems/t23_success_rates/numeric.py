"""T23: MaxRL re-weights prompts by success rates and leaves components alone; OPO's baseline does not."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import pairwise, product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.attribution import coefficients
from dsjax.numerics import divide
from dsjax.objectives import Objective, reinforce
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP, Trajectories
from proofs_check.extremes import WITHOUT_REFERENCE
from proofs_check.instances import Shape
from proofs_check.numerics import gap
from proofs_check.requirements import MIXED_IF_BINARY
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t12_grpo import numeric as grpo
from proofs_check.theorems.t12_grpo.numeric import mean_of_group, no_factor
from proofs_check.theorems.t22_three_terms.numeric import averages

GROUP = 4
SIZES = (2, 3, 4, 8, 64)
EPSILON = 0.1  # a large one, so that leaving it out would be seen

maxrl = partial(reinforce, baseline="maxrl", group_size=GROUP, epsilon=0.0)
opo = partial(reinforce, baseline="opo", group_size=GROUP)


def _rates(shape: Shape) -> bool:
    """Whether returns are 0 and 1."""
    return not shape.graded and not shape.cost


def _two_rounds(shape: Shape) -> bool:
    return _rates(shape) and shape.saturated and shape.rounds == 2 and shape.history == "none"


def passes(p: jax.Array, size: int) -> jax.Array:
    """sum_(k=1)^(G-1) pass@k / k, what MaxRL ascends in groups of G."""
    return jnp.sum(jnp.stack([(1.0 - (1.0 - p) ** k) / k for k in range(1, size)]), axis=0)


def slope(p_Q: jax.Array, size: int) -> jax.Array:
    """f[Q]: its derivative, by autodiff."""
    return jax.vmap(jax.grad(lambda p: passes(p, size)))(p_Q)


def smoothed(p_Q: jax.Array, size: int, epsilon: float) -> jax.Array:
    """f[Q]: E[m (1-m)/(m + epsilon)] / (p (1-p)), m the success rate of a group."""
    rate = np.arange(size + 1) / size
    return mean_of_group(p_Q, size, lambda _: rate * (1 - rate) / (rate + epsilon)) / (p_Q * (1.0 - p_Q))


class Lengths(NamedTuple):
    """What a trajectory that stops in round t expects of the others of its group; f[Q, T] each."""

    own: jax.Array  # s: its part of the group's tokens
    others: jax.Array  # g: mean of the others' sum of T_j R_j over the group's tokens


def lengths(rounds: int, length: int, forced: int = 0) -> np.ndarray:
    """f[T]: n_1 .. n_T; `forced` = 1 counts the stop of round T as a token, which it is not."""
    n = np.arange(1.0, rounds + 1) * (length + 1)
    n[-1] -= 1 - forced
    return n


def of_lengths(stops_QxT: jax.Array, returns_QxT: jax.Array, n_T: np.ndarray, size: int, own: float = 1.0) -> Lengths:
    """s and g from P(tau = t) and E[R | tau = t], over all tuples of the others' stopping rounds; `own` weighs s."""
    rounds = np.array(list(product(range(n_T.size), repeat=size - 1)))  # [N, G-1]
    law_QxN = jnp.prod(stops_QxT[:, rounds], axis=-1)
    paid_QxN = jnp.sum(n_T[rounds][None] * returns_QxT[:, rounds], axis=-1)
    inverse_TxN = jnp.asarray(1.0 / (own * n_T[:, None] + n_T[rounds].sum(-1)))
    inverse_QxTxN = law_QxN[:, None] * inverse_TxN[None]
    return Lengths(
        jnp.asarray(own * n_T)[None] * jnp.sum(inverse_QxTxN, -1), jnp.sum(paid_QxN[:, None] * inverse_QxTxN, -1)
    )


def factors(right_Q: jax.Array, found: Lengths) -> tuple[jax.Array, jax.Array]:
    """(at right, at wrong answers), f[Q] each, for T = 2: OPO's push on STOP over REINFORCE's.

    `right_Q` is the probability that an attempt is right.
    """
    s, g = found
    x = right_Q * (1.0 - s[:, 1]) + g[:, 0] - g[:, 1]
    return (1.0 - s[:, 0] - x) / (1.0 - right_Q), x / right_Q


def difference(a_Q: jax.Array, b_Q: jax.Array, stops_QxT: jax.Array, n_T: np.ndarray, size: int) -> jax.Array:
    """f[Q]: (a - b) (G-1) n_1 E[1/(2 n_1 + N') - 1/(n_1 + n_2 + N')], N' the tokens of G - 2 trajectories."""
    rounds = np.array(list(product(range(2), repeat=size - 2)), int)
    more = n_T[rounds].sum(-1)
    gained = 1.0 / (2 * n_T[0] + more) - 1.0 / (n_T[0] + n_T[1] + more)
    return (a_Q - b_Q) * (size - 1) * n_T[0] * jnp.sum(jnp.prod(stops_QxT[:, rounds], -1) * gained[None], -1)


def stopping(process: DecisionSamplingProcess, traj: Trajectories) -> tuple[jax.Array, jax.Array]:
    """(P(tau = t), E[R | tau = t]) at each prompt, f[Q, T] each."""
    law, paid = (
        jnp.stack([jnp.sum(x, (1, 2)) for x in process.split(x_B)], -1)
        for x_B in (traj.weight, traj.weight * traj.reward)
    )
    return divide(law, process.prompt_law[:, None]), divide(paid, law)


def expected_advantage(process: DecisionSamplingProcess, reward_B: jax.Array, found: Lengths) -> jax.Array:
    """f[B]: R (1 - s_tau) - g_tau of OPO."""
    Q, A = process.num_prompts, process.num_answers
    own, others = (
        process.join(tuple(jnp.broadcast_to(x[:, t, None, None], (Q, A**t, A)) for t in range(x.shape[1])))
        for x in found
    )
    return reward_B * (1.0 - own) - others


class Setting(grpo.Setting):
    """Gradients of both objectives, those of each prompt's success probability, and laws of the stopping round."""

    def objectives(self) -> dict[str, Objective]:
        """Each shape has its own, since a gradient's program takes longer to compile than to run."""
        shape = self.shape
        if shape.network:
            return {"maxrl": maxrl}
        found: dict[str, Objective] = {"opo": opo, "maxrl": maxrl} if _rates(shape) else {"opo": opo}
        return found | {"reinforce": reinforce} if _two_rounds(shape) else found

    @cached_property
    def rates(self) -> dict[int, jax.Array]:
        """f[Q] for each size: MaxRL's factor, as measured."""
        return {size: self.factor_of("maxrl", size) for size in SIZES}

    @cached_property
    def stopping(self) -> tuple[jax.Array, jax.Array]:
        """See `stopping`."""
        return stopping(self.process, self.traj)

    def of_lengths(self, forced: int = 0, own: float = 1.0) -> Lengths:
        """s and g."""
        return of_lengths(*self.stopping, lengths(self.shape.rounds, self.shape.length, forced), GROUP, own)

    def coefficient_gap(self, stated: Lengths) -> jax.Array:
        """Distance of OPO's coefficients from R (1 - s) - g on every token of a trajectory."""
        k_B = expected_advantage(self.process, self.traj.reward, stated)
        c_BxS = coefficients(opo, self.logp, self.traj)
        # By the probability of a trajectory: dividing by it would blow rounding up where it is small.
        return gap(c_BxS, jnp.where(self.traj.mask, (self.traj.weight * k_B)[:, None], 0.0))

    @cached_property
    def stop_gradients(self) -> tuple[jax.Array, jax.Array]:
        """(OPO's, REINFORCE's) gradient on STOP logits, f[Q, H_d, A]."""
        opo_d, plain_d = (self.gradients[name].decision["decision"] for name in ("opo", "reinforce"))
        return opo_d[..., STOP], plain_d[..., STOP]

    def stop_gap(self, right_Q: jax.Array, wrong_Q: jax.Array) -> jax.Array:
        """Distance of OPO's gradient on STOP logits from REINFORCE's times these factors."""
        found, plain = self.stop_gradients
        is_right = (self.process.reward_table > 0.5)[:, None, :]
        return gap(found, plain * jnp.where(is_right, right_Q[:, None, None], wrong_Q[:, None, None]))

    @cached_property
    def attempts(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(p_1, a, b) of a memoryless policy, f[Q] each."""
        law, right = jnp.exp(self.tables.log_sample[0][:, 0]), self.process.reward_table
        stop = jnp.exp(self.tables.log_stop[0][:, 0])
        return averages(law, right, stop)


THEOREM = Theorem(
    STATEMENTS["T23"],
    shapes=(
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=4, prompts=2, shared=9),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, network=True),
        Shape(rounds=2, length=4, vocabulary=2, history="none"),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
        Shape(rounds=1, length=2, vocabulary=3, prompts=2, graded=True),
    ),
    spared=(WITHOUT_REFERENCE,),
    requires=(MIXED_IF_BINARY,),
    prepare=Setting,
    telling=lambda shape: not shape.network,
)
rates = THEOREM.on(_rates)
saturated = THEOREM.on(lambda shape: _rates(shape) and shape.saturated)
tables = THEOREM.on(lambda shape: not shape.network)
several = THEOREM.on(lambda shape: not shape.network and shape.rounds >= 2)
two_rounds = THEOREM.on(_two_rounds)

_passes = rates.equation(
    "MaxRL: G_s and G_d are those of sum_q mu(q) sum_(k<G) pass@k(p_q)/k", lambda s: s.gap("maxrl", slope(s.p, GROUP))
)


# gammaln(64) = 200 nats stand in an exponent, and A <= 63: relative to the largest, as c_G is.
@saturated.equation("MaxRL: c_G = A(right) - A(wrong) = (1 - (1-p)^(G-1))/p")
def _rate(s: Setting) -> jax.Array:
    """By expm1 and log1p, for a rare success; a sum of probabilities may exceed 1 by rounding."""
    p, log_wrong = s.p, jnp.log1p(-jnp.minimum(s.p, 1.0))
    return jnp.max(jnp.stack([gap(c, -jnp.expm1((G - 1) * log_wrong) / p) for G, c in s.rates.items()]))


_smoothed = saturated.equation(
    "MaxRL, epsilon > 0: c = E[m (1-m)/(m + epsilon)] / (p (1-p))",
    lambda s: gap(s.factor_of("maxrl", GROUP, EPSILON), smoothed(s.p, GROUP, EPSILON)),
)
saturated.equation("MaxRL: c_2 = 1, whatever p", lambda s: gap(s.rates[2], jnp.ones_like(s.p)))


@saturated.inequality("MaxRL: 1 <= c_G <= min(G-1, 1/p), growing with G")
def _range(s: Setting) -> jax.Array:
    """Relative to G, as the rounding of A is."""
    slack = [jnp.minimum(c - 1.0, jnp.minimum(G - 1.0, 1.0 / s.p) - c) / G for G, c in s.rates.items()]
    return jnp.min(jnp.stack(slack + [(s.rates[y] - s.rates[x]) / y for x, y in pairwise(SIZES)]))


_coefficient = tables.equation(
    "OPO: every token of a trajectory gets R (1 - s_tau) - g_tau", lambda s: s.coefficient_gap(s.of_lengths())
)
_one_round = THEOREM.on(lambda shape: not shape.network and shape.rounds == 1).equation(
    "OPO, T = 1: (G-1)/G grad J", lambda s: s.gap("opo", (GROUP - 1) / GROUP)
)
_factors = two_rounds.equation(
    "OPO, T = 2: STOP gets REINFORCE's push times a factor at right, another at wrong answers",
    lambda s: s.stop_gap(*factors(s.attempts[0], s.of_lengths())),
)


@two_rounds.equation(
    "OPO, T = 2: factor(wrong) - factor(right) = (a-b) (G-1) n_1 E[1/(2 n_1 + N') - 1/(n_1 + n_2 + N')]"
)
def _difference(s: Setting) -> jax.Array:
    """Times p_1 (1-p_1), which the factors are divided by."""
    p, a, b = s.attempts
    right, wrong = factors(p, s.of_lengths())
    stated = difference(a, b, s.stopping[0], lengths(2, s.shape.length), GROUP)
    return gap(p * (1.0 - p) * (wrong - right), p * (1.0 - p) * stated)


rates.control("MaxRL: pass@1 alone", _passes, lambda s: s.gap("maxrl", 1.0))
rates.control("MaxRL: one pass@k fewer", _passes, lambda s: s.gap("maxrl", slope(s.p, GROUP - 1)))
saturated.control(
    "MaxRL: epsilon left out",
    _smoothed,
    lambda s: gap(s.factor_of("maxrl", GROUP, EPSILON), slope(s.p, GROUP)),
)
tables.control(
    "OPO: own return left out of the baseline", _coefficient, lambda s: s.coefficient_gap(s.of_lengths(own=0.0))
)
several.control(
    "OPO: forced stop of round T counted as a token",
    _coefficient,
    lambda s: s.coefficient_gap(s.of_lengths(forced=1)),
)
several.control("OPO: a multiple of grad J", _one_round, lambda s: no_factor(s.of_return, s.gradients["opo"].total))
two_rounds.control(
    "OPO: one factor for right and wrong answers",
    _factors,
    lambda s: s.stop_gap(*(1.0 - s.of_lengths().own[:, 0],) * 2),  # their mean, weighted by 1 - p_1 and p_1
)

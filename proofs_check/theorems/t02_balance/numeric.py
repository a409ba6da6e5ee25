"""T2: a reward objective puts one scalar per trajectory on every factor of both components."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.attribution import coefficients
from dsjax.numerics import divide
from dsjax.objectives import Objective, dapo, dr_grpo, grpo, reinforce, rloo
from dsjax.policies import Params, log_probs
from dsjax.process import DecisionSamplingProcess, Values
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import attempts, late_baseline, returns
from proofs_check.coefficients import gradients_of
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import gap
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t12_grpo.numeric import factor

BETA = 0.3  # trajectory KL in the reward
GROUP = 4  # GRPO group size on an exact law
FLOOR = 2.0  # under a standard deviation, above that of any returns
COUNT = 7.0  # tokens per sequence, whatever is drawn
EPSILON = 1e-4  # what GRPO adds to a standard deviation by default


def objectives(instance: Instance, exact: bool) -> dict[str, Objective]:
    """The reward objectives of the library that apply."""
    named: dict[str, Objective] = {
        "reinforce": reinforce,
        "batch mean": partial(reinforce, baseline="batch_mean"),
        "rloo": rloo,
        "trajectory KL": partial(reinforce, baseline="leave_one_out", reward_kl=BETA),
        "prompt mean": partial(reinforce, aggregation="prompt_mean"),
    }
    shape = instance.shape
    # On an exact law GRPO needs the values that the return takes, as static data: binary verifier, no cost.
    if not exact:
        named |= {
            "grpo": grpo,
            "dapo": dapo,
            "dr_grpo": dr_grpo,
            "floor": partial(grpo, std_floor=FLOOR),
            "batch": partial(grpo, std_of="batch", ddof=1),
            "given count": partial(reinforce, aggregation="given_count", tokens_per_sequence=COUNT),
            "psr_nsr": partial(reinforce, baseline="psr_nsr"),
        }
    elif not shape.graded and not shape.cost:
        named["grpo"] = partial(grpo, group_size=GROUP)
    return named


def stated_weights(process: DecisionSamplingProcess, traj: Trajectories, logp_BxS: jax.Array) -> dict[str, jax.Array]:
    """w(tau) of every objective by name, f[B] each, from sums over prompts written here.

    Of the exact law, or of a finite batch, whose rows count alike.
    """
    law = traj.weight if traj.exact else jnp.full_like(traj.weight, 1.0 / traj.weight.size)
    of_prompt = jax.nn.one_hot(traj.prompt[:, 0], process.num_prompts, dtype=law.dtype)

    def by_row(x_Q: jax.Array) -> jax.Array:
        return jnp.sum(of_prompt * x_Q[None, :], -1)

    def over_prompt(x_B: jax.Array) -> jax.Array:
        """f[Q]."""
        return jnp.sum(of_prompt * x_B[:, None], 0)

    tau, R = attempts(process, traj), returns(process, traj)
    # One decision a round, but none at round T.
    T_i = (tau * (process.length + 1) - (tau == process.rounds).astype(tau.dtype)).astype(law.dtype)
    assert traj.ref_logp is not None
    charged = R - BETA * jnp.sum(jnp.where(traj.mask, logp_BxS - traj.ref_logp, 0.0), -1)
    w = {"reinforce": R, "batch mean": R - jnp.sum(law * R)}
    if traj.exact:
        mean, mean_charged = (by_row(divide(over_prompt(law * x), process.prompt_law)) for x in (R, charged))
        # Binary, c = 0. A prompt that is always right or always wrong has R - mean = 0 and no factor.
        p = jnp.where((mean > 0) & (mean < 1), mean, 0.5)
        return w | {
            "rloo": R - mean,
            "prompt mean": divide(R, by_row(divide(over_prompt(law * T_i), process.prompt_law))),
            "trajectory KL": charged - mean_charged,
            "grpo": factor(p, GROUP, EPSILON) * (R - mean) / T_i,
        }
    G, total, total_charged = (by_row(over_prompt(x)) for x in (jnp.ones_like(R), R, charged))
    centred = R - total / G
    normalised = centred / (jnp.sqrt(by_row(over_prompt(centred**2)) / G) + EPSILON)
    return w | {
        "rloo": R - (total - R) / (G - 1.0),
        "trajectory KL": charged - (total_charged - charged) / (G - 1.0),
        "grpo": normalised / T_i,
        "dapo": normalised / jnp.mean(T_i),
        "dr_grpo": centred / traj.tokens.shape[1],
        "floor": centred / (FLOOR + EPSILON) / T_i,
        "batch": centred / (jnp.std(R, ddof=1) + EPSILON) / T_i,
        "given count": R / COUNT,
        "psr_nsr": jnp.where(R >= 1.0, 0.1, -1.0),
        # A prompt counts once, however many of its trajectories there are.
        "prompt mean": R * R.size / (by_row(over_prompt(T_i)) * process.num_prompts),
    }


def _kept(shape: Shape) -> np.ndarray:
    """Rows of a batch with groups of unequal size: half of the first prompt's trajectories of T rounds are missing."""
    A, Q, T = shape.vocabulary**shape.length, shape.prompts, shape.rounds
    last = Q * sum(A**t for t in range(1, T))
    missing = A**T // 2 if A**T >= 4 else 0
    return np.delete(np.arange(last + Q * A**T), np.arange(last, last + missing))


class Setting(instances.Setting):
    """Coefficients and gradients, also with causal advantages in their place."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        ref_logp = log_probs(self.policy, instance.reference, self.traj)
        traj = self.traj = self.traj.replace(ref_logp=ref_logp)
        # Some of the trajectories taken as samples, with weights that are no law, as a part of a batch has them.
        rows = _kept(self.shape)
        batch = traj.rows(rows)
        self.batch, self.batch_logp = batch.replace(exact=False, weight=jnp.ones_like(batch.weight)), self.logp[rows]
        # Coefficients f[B, S] on the exact law and of the batch.
        self.found = {name: coefficients(f, self.logp, traj) for name, f in objectives(instance, exact=True).items()}
        self.sampled = {
            name: coefficients(f, self.batch_logp, self.batch) for name, f in objectives(instance, exact=False).items()
        }
        self.stated = stated_weights(self.process, traj, self.logp)
        self.stated_in_batch = stated_weights(self.process, self.batch, self.batch_logp)
        plain, w = (jnp.stack([by_name[name] for name in self.found]) for by_name in (self.found, self.stated))
        causal = jax.vmap(lambda w_B: self.causal(self.process.values(self.tables, w_B)))(w)
        late = self.causal(late_baseline(self.values))
        every = gradients_of(self.policy, self.params, traj, jnp.concatenate([plain, causal, late[None]]))
        n = len(plain)
        # One row an objective; with causal advantages; of REINFORCE, with an advantage one round off.
        self.plain, self.replaced, self.late = (
            jax.tree.map(lambda x, part=part: x[part], every)
            for part in (slice(n), slice(n, 2 * n), slice(2 * n, None))
        )

    def causal(self, values: Values) -> jax.Array:
        """f[B, S]: coefficients with which every factor carries its own advantage."""
        return self.traj.weight[:, None] * self.process.token_advantages(values)


def _per_trajectory(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """c over the trajectory's part of the law; 0 where that is 0."""
    return divide(c_BxS * jnp.sum(traj.weight), traj.weight[:, None])


def _spread(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """Largest difference between two coefficients of one trajectory, per unit of its weight."""
    c_BxS = _per_trajectory(c_BxS, traj)
    high = jnp.max(jnp.where(traj.mask, c_BxS, -jnp.inf), axis=-1)
    low = jnp.min(jnp.where(traj.mask, c_BxS, jnp.inf), axis=-1)
    return jnp.max(high - low)


def _from_stated(found: dict[str, jax.Array], stated: dict[str, jax.Array], traj: Trajectories) -> jax.Array:
    """Distance of the first answer token's coefficient, which every trajectory has, from w."""
    happens = traj.weight > 0
    return _largest(
        gap(_per_trajectory(c, traj)[:, 0], jnp.where(happens, stated[name], 0.0)) for name, c in found.items()
    )


def _tilted(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """Spread with 1% more on the decisions."""
    return _spread(jnp.where(traj.decision_mask, 1.01 * c_BxS, c_BxS), traj)


THEOREM = Theorem(
    STATEMENTS["T2"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, prompts=2, graded=True, cost=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, history="none"),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, shared=9),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=1, length=3, vocabulary=4, prompts=2, graded=True, shared=4),
        Shape(rounds=2, length=4, vocabulary=2, shared=4),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    prepare=Setting,
    telling=lambda shape: shape.saturated,
)
everywhere = THEOREM.on()


def _largest(errors: Iterable[jax.Array]) -> jax.Array:
    return jnp.max(jnp.stack(list(errors)))


# One subtraction of two coefficients computed by the same few operations.
_equal = everywhere.equation(
    "one coefficient on all factors of a trajectory", lambda s: _largest(_spread(c, s.traj) for c in s.found.values())
)
_equal_in_batch = everywhere.equation(
    "one coefficient on all factors, in a finite batch",
    lambda s: _largest(_spread(c, s.batch) for c in s.sampled.values()),
)
_weight = everywhere.equation(
    "the coefficient is the statement's weight w, GRPO's with its group on average",
    lambda s: _from_stated(s.found, s.stated, s.traj),
)
# Returns, exact to EPS, are divided by EPSILON at least: EPS/EPSILON = SUM.
_weight_in_batch = everywhere.equation(
    "the coefficient is w, in a finite batch with groups of unequal size",
    lambda s: _from_stated(s.sampled, s.stated_in_batch, s.batch),
)
everywhere.equation(
    "w replaced by the factor's causal advantage: same G_s",
    lambda s: jnp.max(jax.vmap(gap)(s.replaced.sample, s.plain.sample)),
)
_same = everywhere.equation(
    "w replaced by the factor's causal advantage: same G_d",
    lambda s: jnp.max(jax.vmap(gap)(s.replaced.decision, s.plain.decision)),
)


everywhere.control("decision coefficient x 1.01", _equal, lambda s: _tilted(s.found["reinforce"], s.traj))
everywhere.control(
    "decision coefficient x 1.01, finite batch", _equal_in_batch, lambda s: _tilted(s.sampled["grpo"], s.batch)
)
everywhere.control(
    "w = R for a leave-one-out baseline",
    _weight,
    lambda s: _from_stated({"reinforce": s.found["rloo"]}, s.stated, s.traj),
)
everywhere.control(
    "GRPO, finite batch: not divided by the number of tokens",
    _weight_in_batch,
    lambda s: _from_stated({"dapo": s.sampled["grpo"]}, s.stated_in_batch, s.batch),
)


def _against_reinforce(s: Setting, gradient: Params, scale: float = 1.0) -> jax.Array:
    """Distance of a scaled G_d from the first row: that of REINFORCE."""
    return gap(jax.tree.map(lambda g: scale * g[0], gradient), jax.tree.map(lambda g: g[0], s.plain.decision))


everywhere.control(
    "decision coefficient x 1.01, expected gradient",
    _same,
    lambda s: _against_reinforce(s, s.replaced.decision, 1.01),
)
everywhere.control(
    "V_t for V_(t+1) in the causal advantage of RESAMPLE",
    _same,
    lambda s: _against_reinforce(s, s.late.decision),
)

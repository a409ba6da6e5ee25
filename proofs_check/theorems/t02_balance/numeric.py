"""T2: a reward objective puts one scalar per trajectory on every factor of both components."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp

from dsjax.attribution import coefficients
from dsjax.objectives import Objective, grpo, reinforce, rloo
from dsjax.policies import Params, log_probs
from dsjax.process import Values
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import late_baseline
from proofs_check.coefficients import gradients_of
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import gap
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

BETA = 0.3  # trajectory KL in the reward
GROUP = 4  # GRPO group size on an exact law


def objectives(instance: Instance, exact: bool) -> dict[str, Objective]:
    """The reward objectives of the library that apply."""
    named: dict[str, Objective] = {
        "reinforce": reinforce,
        "batch mean": partial(reinforce, baseline="batch_mean"),
        "rloo": rloo,
        "trajectory KL": partial(reinforce, baseline="leave_one_out", reward_kl=BETA),
    }
    shape = instance.shape
    # On an exact law GRPO needs the values that the return takes, as static data: binary verifier, no cost.
    if not exact:
        named["grpo"] = grpo
    elif not shape.graded and not shape.cost:
        named["grpo"] = partial(grpo, group_size=GROUP)
    return named


class Setting(instances.Setting):
    """Coefficients and gradients, also with causal advantages in their place."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        self.ref_logp = log_probs(self.policy, instance.reference, self.traj)
        traj = self.traj = self.traj.replace(ref_logp=self.ref_logp)
        # The same trajectories taken as a finite batch of samples.
        self.batch = traj.replace(exact=False, weight=jnp.full_like(traj.weight, 1.0 / traj.weight.size))
        # Coefficients f[B, S] on the exact law.
        self.found = {name: coefficients(f, self.logp, traj) for name, f in objectives(instance, exact=True).items()}
        plain = jnp.stack(list(self.found.values()))
        tables = self.tables
        causal = jax.vmap(lambda c: self.causal(self.process.values(tables, _weight(c, traj))))(plain)
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


def _spread(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """Largest difference between two coefficients of one trajectory, per unit of its weight."""
    c_BxS = c_BxS / traj.weight[:, None]
    high = jnp.max(jnp.where(traj.mask, c_BxS, -jnp.inf), axis=-1)
    low = jnp.min(jnp.where(traj.mask, c_BxS, jnp.inf), axis=-1)
    return jnp.max(high - low)


def _weight(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """f[B]: w, read off the first answer token, which every trajectory has."""
    return c_BxS[:, 0] / traj.weight


THEOREM = Theorem(
    STATEMENTS["T2"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=3, graded=True, cost=True),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, history="none"),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, shared=9),
        Shape(rounds=2, length=2, vocabulary=2, graded=True, cost=True, network=True),
        Shape(rounds=1, length=3, vocabulary=4, prompts=2, graded=True, shared=4),
        Shape(rounds=1, length=4, vocabulary=2, prompts=2, shared=4),
        Shape(rounds=1, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=1, length=6, vocabulary=2, history="none", shared=4),
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


def _sampled(s: Setting, objective: Objective, decision: float = 1.0) -> jax.Array:
    c_BxS = coefficients(objective, s.logp, s.batch)
    return _spread(jnp.where(s.batch.decision_mask, decision * c_BxS, c_BxS), s.batch)


_equal_in_batch = everywhere.equation(
    "one coefficient on all factors, in a finite batch",
    lambda s: _largest(_sampled(s, f) for f in objectives(s.instance, exact=False).values()),
)


@everywhere.equation("the coefficient is the statement's weight w")
def _stated(s: Setting) -> jax.Array:
    """w(tau) of each statement, from prompt-wise sums written here."""
    traj, mu = s.traj, s.process.prompt_law
    shaped = traj.reward - BETA * jnp.sum(jnp.where(traj.mask, s.logp - s.ref_logp, 0.0), -1)
    of_prompt = jax.nn.one_hot(traj.prompt[:, 0], mu.size, dtype=traj.weight.dtype)

    def at_prompt(x: jax.Array) -> jax.Array:
        mean_Q = jnp.sum(of_prompt * (traj.weight * x)[:, None], 0) / mu
        return jnp.sum(of_prompt * mean_Q[None, :], -1)

    stated = {
        "reinforce": traj.reward,
        "batch mean": traj.reward - jnp.sum(traj.weight * traj.reward),
        "rloo": traj.reward - at_prompt(traj.reward),
        "trajectory KL": shaped - at_prompt(shaped),
    }
    return _largest(gap(_weight(s.found[name], traj), w) for name, w in stated.items())


everywhere.equation(
    "w replaced by the factor's causal advantage: same G_s",
    lambda s: jnp.max(jax.vmap(gap)(s.replaced.sample, s.plain.sample)),
)
_same = everywhere.equation(
    "w replaced by the factor's causal advantage: same G_d",
    lambda s: jnp.max(jax.vmap(gap)(s.replaced.decision, s.plain.decision)),
)


@everywhere.control("decision coefficient x 1.01", _equal)
def _tilted(s: Setting) -> jax.Array:
    c_BxS = s.found["reinforce"]
    return _spread(jnp.where(s.traj.decision_mask, 1.01 * c_BxS, c_BxS), s.traj)


everywhere.control("decision coefficient x 1.01, finite batch", _equal_in_batch, lambda s: _sampled(s, grpo, 1.01))


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

"""Builders that several test files share: library objects next to the oracle's version of the same thing."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.policies import History, Params, Policy, SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from tests import oracle

# Sums below have at most a few hundred terms of size <= 1: worst-case rounding is about 300 eps = 7e-14 in float64.
TIGHT = 1e-12


class Shape(NamedTuple):
    vocabulary: int
    length: int
    rounds: int
    prompts: int
    history: History


SHAPES = (
    Shape(2, 1, 1, 1, "none"),
    Shape(3, 2, 1, 2, "full"),
    Shape(2, 2, 2, 2, "none"),
    Shape(2, 3, 2, 2, "full"),
    Shape(3, 1, 3, 2, "full"),
    Shape(2, 1, 3, 3, "none"),
    Shape(2, 2, 3, 1, "full"),
)
SMALL = Shape(2, 1, 2, 1, "none")
MIDDLE = Shape(2, 2, 2, 2, "full")


class Case(NamedTuple):
    process: DecisionSamplingProcess
    policy: SaturatedPolicy
    params: dict[str, jax.Array]
    toy: oracle.Toy


def random_params(policy: SaturatedPolicy, rng: np.random.Generator) -> dict[str, jax.Array]:
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in policy.shapes().items()}


def make_case(shape: Shape, cost: float = 0.0, seed: int = 0, binary: bool = False) -> Case:
    """A random process with a random saturated policy; call it inside of the x64 scope."""
    rng = np.random.default_rng(seed)
    V, L, T, Q, history = shape
    law = rng.dirichlet(np.ones(Q))
    table = rng.random((Q, V**L))
    if binary:
        table = (table < 0.5).astype(float)
        table[:, 0], table[:, -1] = 0.0, 1.0
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.asarray(law),
        reward_table=jnp.asarray(table),
        vocabulary=V,
        length=L,
        rounds=T,
        cost=cost,
        history=history,
    )
    policy = SaturatedPolicy.for_process(process)
    params = random_params(policy, rng)
    reward = {(q, y): table[q, i] for q in range(Q) for i, y in enumerate(oracle.answers_of(V, L))}
    bare = oracle.Toy(tuple(law), reward, cost, V, L, T, history, {}, {})
    return Case(process, policy, params, toy_of(bare, params))


def toy_of(toy: oracle.Toy, params: dict[str, jax.Array]) -> oracle.Toy:
    """The oracle's process under the policy with these logits."""
    return oracle.with_logits(toy, np.asarray(params["sample"]), np.asarray(params["decision"]))


def layout(params: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Logit tables (or their gradients) as the oracle lists them: [contexts, choices]."""
    return {name: np.asarray(x).reshape(-1, x.shape[-1]) for name, x in params.items()}


@jax.jit
def support(process: DecisionSamplingProcess) -> Trajectories:
    """`process.support()`, compiled as a whole: its small steps are slow one by one."""
    return process.support()


@jax.jit
def enumerated(process: DecisionSamplingProcess, policy: Policy, params: Params) -> Trajectories:
    return process.enumerate_trajectories(policy, params)


@functools.partial(jax.jit, static_argnames=("horizon", "num_groups", "exact"))
def from_rounds(**fields) -> Trajectories:
    return Trajectories.from_rounds(**fields)


def ragged_batch(seed: int = 0, *, imitated: bool = False) -> tuple[jax.Array, Trajectories]:
    """(logp_BxS, batch): 8 samples in 2 groups of 4, L = 2, T = 3, stops of every kind, old and reference log-probs.

    Ratios to the old policy are exp(+-0.1) and exp(+-0.5): on both sides of a clip at 0.2, never near it.
    """
    rng = np.random.default_rng(seed)
    B, K, L = 8, 3, 2
    traj = from_rounds(
        prompt=jnp.asarray(rng.integers(0, 5, (B, 1)), jnp.int32),
        answers=jnp.asarray(rng.integers(0, 3, (B, K, L)), jnp.int32),
        stop_round=jnp.asarray([0, 1, 2, 0, 2, 1, 0, 1], jnp.int32),
        horizon=3,
        reward=jnp.asarray(rng.random(B)),
        weight=jnp.full(B, 1 / B),
        group=jnp.asarray([0, 0, 1, 1, 0, 1, 0, 1], jnp.int32),
        num_groups=2,
        imitated=jnp.asarray(rng.random((B, K)) < 0.6) if imitated else None,
    )
    logp = -0.6 - rng.random(traj.tokens.shape)
    old = logp + rng.choice([-0.5, -0.1, 0.1, 0.5], traj.tokens.shape)
    ref = -0.1 - rng.random(traj.tokens.shape)
    return jnp.asarray(logp), traj.replace(old_logp=jnp.asarray(old), ref_logp=jnp.asarray(ref))

"""Random processes with policies: pure functions of a key and a static shape, so that `vmap` makes a batch of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.policies import History, Params, SaturatedPolicy, SharedPolicy
from dsjax.policies.transformer import TransformerPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories


@dataclass(frozen=True)
class Shape:
    """Everything static about an instance: one shape is one compiled program."""

    rounds: int  # T
    length: int  # L
    vocabulary: int  # V
    prompts: int = 1  # Q
    history: History = "full"
    graded: bool = False  # verifier uniform in [0, 1] instead of binary
    cost: bool = False  # c uniform in [0.05, 0.3] instead of 0
    shared: int = 0  # parameters that both components read; 0: saturated
    network: bool = False  # a small transformer instead of tables (Level 2)

    @property
    def saturated(self) -> bool:
        """One free softmax per context."""
        return not self.shared and not self.network

    def __str__(self) -> str:
        parts = [f"T={self.rounds} L={self.length} V={self.vocabulary} Q={self.prompts} history={self.history}"]
        parts.append("graded" if self.graded else "binary")
        parts.append("c>0" if self.cost else "c=0")
        parts.append("transformer" if self.network else f"shared({self.shared})" if self.shared else "saturated")
        return " ".join(parts)


class Instance(struct.PyTreeNode):
    """A process, a policy at random parameters, and nearby parameters as reference."""

    process: DecisionSamplingProcess
    policy: Any  # a `dsjax.policies.Policy`; a SharedPolicy carries its random features
    params: Params
    reference: Params  # pi_ref: the parameters plus noise, so that log-ratios are of order one
    key: jax.Array  # for what only one theorem needs (a demonstrator's law, a re-encoding, ..)
    shape: Shape = struct.field(pytree_node=False)


def binary_table(key: jax.Array, prompts: int, answers: int) -> jax.Array:
    """f[Q, A] in {0, 1}: fair coins, made to have a right and a wrong answer for every prompt."""
    coins_key, order_key = jax.random.split(key)
    coins = jax.random.bernoulli(coins_key, 0.5, (prompts, answers)).at[:, 0].set(True).at[:, 1].set(False)
    return jax.random.permutation(order_key, coins, axis=1, independent=True).astype(float)


def perturbed(key: jax.Array, params: Params, scale: float) -> Params:
    """The parameters plus Gaussian noise of that standard deviation."""
    flat, unravel = ravel_pytree(params)
    return unravel(flat + scale * jax.random.normal(key, flat.shape, flat.dtype))


def _process(law_key: jax.Array, table_key: jax.Array, cost_key: jax.Array, shape: Shape) -> DecisionSamplingProcess:
    """A random process."""
    Q, A = shape.prompts, shape.vocabulary**shape.length
    table = jax.random.uniform(table_key, (Q, A)) if shape.graded else binary_table(table_key, Q, A)
    return DecisionSamplingProcess.create(
        prompt_law=jax.nn.softmax(jax.random.normal(law_key, (Q,))),
        reward_table=table,
        vocabulary=shape.vocabulary,
        length=shape.length,
        rounds=shape.rounds,
        cost=jax.random.uniform(cost_key, (), minval=0.05, maxval=0.3) if shape.cost else 0.0,
        history=shape.history,
    )


def shape_of(process: DecisionSamplingProcess) -> Shape:
    """The static shape of a given process, with saturated policies."""
    table = np.asarray(process.reward_table)
    return Shape(
        rounds=process.rounds,
        length=process.length,
        vocabulary=process.vocabulary,
        prompts=process.num_prompts,
        history=process.history,
        graded=not np.isin(table, (0.0, 1.0)).all(),
        cost=float(process.cost) > 0,
    )


def small_transformer(process: DecisionSamplingProcess) -> TransformerPolicy:
    """One layer of width 4: the same code as a large one, with a Fisher matrix that can be decomposed.

    Not smaller: with two channels the normalisation layers come so close to 0/0 that derivatives explode.
    """
    return TransformerPolicy(
        prompt_vocabulary=process.num_prompts,
        prompt_length=1,
        vocabulary=process.vocabulary,
        length=process.length,
        rounds=process.rounds,
        layers=1,
        width=4,
        heads=2,
        mlp_ratio=1,
        history=process.history,
    )


def _policy(
    process: DecisionSamplingProcess, feature_key: jax.Array, params_key: jax.Array, shape: Shape
) -> tuple[Any, Params]:
    """A policy of the shape's kind and random parameters, far from any start."""
    if shape.network:
        policy = small_transformer(process)
        with jax.enable_x64(False):  # for its shapes; the network itself initialises in float32
            template = jax.eval_shape(lambda: policy.init(jax.random.key(0)))
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape), template))
        scale, _ = ravel_pytree(jax.tree.map(lambda x: jnp.full(x.shape, x.shape[0] ** -0.5), template))
        return policy, unravel(scale * jax.random.normal(params_key, flat.shape))
    saturated = SaturatedPolicy.for_process(process)
    policy = SharedPolicy.random(saturated, shape.shared, feature_key) if shape.shared else saturated
    return policy, policy.init(params_key)


def draw(key: jax.Array, shape: Shape, process: DecisionSamplingProcess | None = None) -> Instance:
    """A random instance in the default float dtype (float64 inside of the runner).

    Args:
      key: of everything random.
      shape: what is static.
      process: a given process of that shape, for random policies on it; a random one by default.
    """
    law_key, table_key, cost_key, feature_key, params_key, reference_key, extra_key = jax.random.split(key, 7)
    if process is None:
        process = _process(law_key, table_key, cost_key, shape)
    policy, params = _policy(process, feature_key, params_key, shape)
    return Instance(process, policy, params, perturbed(reference_key, params, 0.5), extra_key, shape)


def enumerated(instance: Instance) -> tuple[Trajectories, jax.Array]:
    """Every trajectory with its probability under the policy, and its log-probs f[B, S]."""
    traj = instance.process.enumerate_trajectories(instance.policy, instance.params)
    assert traj.old_logp is not None
    return traj, traj.old_logp

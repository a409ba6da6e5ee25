"""Processes with unread tokens after every answer, for position-wise policies: what T14, T19 and T20 append."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.attribution import ComponentGradients, component_gradients
from dsjax.objectives import Objective
from dsjax.policies import Params, Policy, PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check import instances
from proofs_check.instances import Instance, Shape, Traced


def lengthen(
    process: DecisionSamplingProcess, params: Params, filler_logits: jax.Array, reads: int
) -> tuple[DecisionSamplingProcess, Traced, Params]:
    """(process, policy, parameters) with m filler tokens after every answer; filler_logits f[Q, m, V]."""
    Q, m, V = filler_logits.shape
    longer = process.replace(
        reward_table=jnp.repeat(process.reward_table, V**m, axis=1),
        length=process.length + m,
    )
    sample = jnp.concatenate([params["sample"], filler_logits], axis=1)
    policy = Traced(PositionwisePolicy(Q, V, longer.length, reads))
    # A decider that reads further than its table goes has the same law after every continuation.
    contexts = V**reads // params["decision"].shape[1]
    return longer, policy, {"sample": sample, "decision": jnp.repeat(params["decision"], contexts, axis=1)}


@dataclass(frozen=True)
class Filled:
    """What is static: a memoryless process and the number of unread tokens."""

    base: Shape
    filler: int  # m

    @property
    def share(self) -> float:
        """See `Shape.share`."""
        return self.base.share

    def __str__(self) -> str:
        return f"{self.base}, {self.filler} unread tokens"


class Drawn(struct.PyTreeNode):
    """An instance, and logits of an unread token for policy and reference."""

    instance: Instance
    filler: jax.Array  # f[2, V]
    sizes: Filled = struct.field(pytree_node=False)


def draw(key: jax.Array, sizes: Filled, process: DecisionSamplingProcess | None = None) -> Drawn:
    """A random process; position-wise policy and reference whose decider reads the answer but not the filler."""
    base_key, filler_key = jax.random.split(key)
    instance = instances.draw(base_key, sizes.base, process)
    shape = sizes.base
    policy = PositionwisePolicy(shape.prompts, shape.vocabulary, shape.length, shape.length)
    params = policy.init(instance.key)
    reference = instances.perturbed(jax.random.fold_in(instance.key, 1), params, 0.5)
    own = instances.normal(filler_key, shape.vocabulary)
    # Half a nat apart at least, in one logit: no drift is so small that its price could not be told from none.
    filler = jnp.stack([own, own.at[0].add(0.5 + jnp.abs(own[-1]))])
    return Drawn(instance.replace(policy=policy, params=params, reference=reference), filler, sizes)


class Law:
    """A process with its position-wise policy and reference, all trajectories with their log-probs under both."""

    def __init__(self, process: DecisionSamplingProcess, policy: Policy, params: Params, reference: Params):
        self.process, self.policy, self.params = process, policy, params
        traj = process.enumerate_trajectories(policy, params, static=True)
        self.traj = traj.replace(ref_logp=log_probs(policy, reference, traj))

    def gradients(self, objective: Objective) -> ComponentGradients:
        """Component gradients of the objective, in all parameters."""
        return component_gradients(self.policy, self.params, self.traj, objective)

    def kl(self) -> jax.Array:
        """KL(P || P_ref), nats."""
        assert self.traj.old_logp is not None
        assert self.traj.ref_logp is not None
        drift_B = jnp.sum(jnp.where(self.traj.mask, self.traj.old_logp - self.traj.ref_logp, 0.0), -1)
        return jnp.sum(self.traj.weight * drift_B)

    def mean(self, x_B: jax.Array) -> jax.Array:
        """Expectation."""
        return jnp.sum(self.traj.weight * x_B)


def with_filler(drawn: Drawn, m: int) -> Law:
    """The instance with m of its unread tokens after every answer."""
    instance, reads = drawn.instance, drawn.sizes.base.length
    own, other = (jnp.broadcast_to(x, (instance.process.num_prompts, m, x.size)) for x in drawn.filler)
    process, policy, params = lengthen(instance.process, instance.params, own, reads)
    return Law(process, policy, params, lengthen(instance.process, instance.reference, other, reads)[2])

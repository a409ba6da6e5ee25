"""The fixed processes of the statistical evidence, and how a batch is drawn from one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.policies import Params, PositionwisePolicy, SaturatedPolicy, log_probs
from dsjax.policies.rollout import sample, to_trajectories
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from proofs_check.instances import perturbed

GROUPS = 2  # prompts drawn for a batch
MEMBERS = 8  # trajectories of each: the library's default group size on an exact law
BATCH = GROUPS * MEMBERS
EPSILON = 1e-4  # beside the standard deviation of a group: the library's default


class Setting(struct.PyTreeNode):
    """A process, a tabular policy that the rollout decodes without a cache, and every trajectory with its law."""

    process: DecisionSamplingProcess
    policy: Any
    params: Params
    reference: Params  # pi_ref
    exact: Trajectories  # the enumerated law, with old and reference log-probs
    name: str = struct.field(pytree_node=False)

    def __str__(self) -> str:
        p = self.process
        return f"{self.name}: T={p.rounds} L={p.length} V={p.vocabulary} Q={p.num_prompts} history={p.history}"

    def batch(self, key: jax.Array) -> Trajectories:
        """GROUPS x MEMBERS trajectories by the library's rollout: one prompt from mu a group, scored by the table."""
        process = self.process
        prompt_key, attempts_key = jax.random.split(key)
        prompt_M = jax.random.categorical(prompt_key, jnp.log(process.prompt_law), shape=(GROUPS,)).astype(jnp.int32)
        group_B = jnp.repeat(jnp.arange(GROUPS, dtype=jnp.int32), MEMBERS, total_repeat_length=GROUPS * MEMBERS)
        prompt_B = prompt_M[group_B]
        attempts = sample(self.policy, self.params, prompt_B[:, None], attempts_key, rounds=process.rounds)
        place_L = process.vocabulary ** jnp.arange(process.length, dtype=jnp.int32)[::-1]
        answer_BxT = jnp.sum(attempts.answers * place_L[None, None], axis=-1)
        score_BxT = process.reward_table[prompt_B[:, None], answer_BxT]
        traj = to_trajectories(
            prompt_B[:, None],
            attempts,
            score_BxT,
            cost=process.cost,  # pyright: ignore[reportArgumentType]  (a scalar array)
            group=group_B,
            num_groups=GROUPS,
        )
        return self.with_reference(traj)

    def with_reference(self, traj: Trajectories) -> Trajectories:
        """The trajectories with the reference policy's log-probs."""
        return traj.replace(ref_logp=log_probs(self.policy, self.reference, traj))


def _setting(
    name: str, process: DecisionSamplingProcess, policy: SaturatedPolicy | PositionwisePolicy, key: jax.Array
) -> Setting:
    """Normal logits, a reference around them, and the law."""
    params_key, reference_key = jax.random.split(key)
    params = policy.init(params_key, scale=0.5)  # no rare context: every mean is near normal
    reference = perturbed(reference_key, params, 0.5)
    traj = process.enumerate_trajectories(policy, params, static=True)
    traj = traj.replace(ref_logp=log_probs(policy, reference, traj))
    return Setting(process, policy, params, reference, traj, name)


def binary(key: jax.Array) -> Setting:
    """Two prompts, answers of two tokens, three rounds without memory, binary verifier, c = 0."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.asarray([0.6, 0.4]),
        reward_table=jnp.asarray([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
        vocabulary=2,
        length=2,
        rounds=3,
    )
    return _setting("binary", process, SaturatedPolicy.for_process(process), key)


def graded(key: jax.Array) -> Setting:
    """Two prompts, three rounds that see the whole history, graded verifier, c > 0."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.asarray([0.6, 0.4]),
        reward_table=jnp.asarray([[0.9, 0.2], [0.4, 0.7]]),
        vocabulary=2,
        length=1,
        rounds=3,
        cost=0.15,
        history="full",
    )
    return _setting("graded", process, SaturatedPolicy.for_process(process), key)


def positionwise(key: jax.Array) -> Setting:
    """One prompt, two rounds, answers of four independent tokens; verifier and decider read only the first (T14)."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones((1,)),
        reward_table=(jnp.arange(16) < 8).astype(float)[None],
        vocabulary=2,
        length=4,
        rounds=2,
    )
    return _setting("position-wise", process, PositionwisePolicy(1, 2, 4, reads=1), key)


# Functions of a key, to be compiled: step by step they take seconds.
SETTINGS = {"binary": binary, "graded": graded, "position-wise": positionwise}

"""The critic of PPO: values of a policy that has one, the loss that fits them, and a critic for a trained policy."""

from __future__ import annotations

from typing import Any

import jax

from dsjax.objectives.aggregation import SumCount, masked
from dsjax.objectives.critic import value_loss
from dsjax.policies.base import Params, Policy
from dsjax.policies.transformer import TransformerPolicy
from dsjax.trajectories import Trajectories


def token_values(policy: Policy, params: Params, traj: Trajectories) -> jax.Array:
    """f[B, S]: the policy's value before each token of `traj`, differentiable; 0 outside of the masks."""
    value_BxKxL1 = policy.values(params, traj.prompt, traj.answers(policy.length))
    return masked(value_BxKxL1.reshape(traj.tokens.shape), traj.mask)


def critic_loss(policy: Policy, params: Params, traj: Trajectories, **options: Any) -> SumCount:
    """(sum, count) of `objectives.critic.value_loss` of the values at `params`.

    `traj.values` must hold those of the policy that drew it: targets and the clip are relative to them. Options are
    those of `value_loss`; discount, gae_lambda and reward_kl must be the objective's, or the critic learns the values
    of another return. The gradient reaches the trunk too, unless the critic is detached.
    """
    return value_loss(token_values(policy, params, traj), traj, **options)


def with_critic(
    policy: TransformerPolicy, params: Params, key: jax.Array, *, detached: bool = False
) -> tuple[TransformerPolicy, Params]:
    """(policy, params) with a fresh value head; all other parameters are kept, and with them both laws."""
    policy = policy.replace(critic=True, critic_detached=detached)
    return policy, {**policy.init(key), **params}

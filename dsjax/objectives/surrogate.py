"""Reward objectives: one scalar per trajectory, on sampling and decision tokens alike.

The ascent direction of each is `sum_{i,t} c_it grad log pi(y_it)`; every docstring gives c on-policy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import InputError, require
from dsjax.objectives.advantages import advantage
from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.objectives.kl import own_token_kl, reward_with_kl
from dsjax.trajectories import Trajectories


def _with_own_token_kl(
    policy_loss: SumCount, logp: jax.Array, traj: Trajectories, beta: float, estimator: str, how: str
) -> SumCount:
    if beta == 0:
        return policy_loss
    kl_sum, _ = own_token_kl(logp, traj, estimator=estimator, aggregation=how)
    return policy_loss[0] + beta * kl_sum, policy_loss[1]


def reinforce(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    baseline: str = "none",
    reward_kl: float = 0.0,
    token_kl: float = 0.0,
    kl_estimator: str = "k2",
) -> SumCount:
    """REINFORCE: -A_i sum_t log pi(y_it), mean over sequences; c = A_i/B. Williams (1992).

    Args:
      logp_BxS: log-probs in nats.
      traj: trajectories.
      baseline: `none`, `batch_mean` or `leave_one_out`.
      reward_kl: beta of the trajectory KL in the reward.
      token_kl: beta of the own-token KL in the loss, with estimator `kl_estimator` and the same normaliser.
      kl_estimator: `k1`, `k2` or `k3`.
    """
    A_B = advantage(baseline, reward_with_kl(traj, reward_kl), traj)
    loss = aggregate(-A_B[:, None] * logp_BxS, traj, "sequence_sum")
    return _with_own_token_kl(loss, logp_BxS, traj, token_kl, kl_estimator, "sequence_sum")


def rloo(logp_BxS: jax.Array, traj: Trajectories, **options) -> SumCount:
    """REINFORCE with the leave-one-out baseline; c = A_i/B, A = R - mean of the others. Ahmadian et al. (2024)."""
    return reinforce(logp_BxS, traj, baseline="leave_one_out", **options)


def grpo(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    reward_kl: float = 0.0,
    token_kl: float = 0.0,
    kl_estimator: str = "k3",
    **advantage_options,
) -> SumCount:
    """GRPO: token ratios clipped, mean over tokens, then over sequences; c = A_i/(B T_i). Shao et al. (2024).

    -min(rho A, clip(rho, 1 - clip, 1 + clip_high) A), rho = pi/pi_old, A = (R - mean)/(std + epsilon) of the group.

    Args:
      logp_BxS: log-probs in nats.
      traj: trajectories with `old_logp`.
      clip: lower clip; the upper one too unless `clip_high` is given.
      clip_high: upper clip.
      reward_kl: as in `reinforce`.
      token_kl: as in `reinforce`.
      kl_estimator: as in `reinforce`.
      **advantage_options: of `advantages.group_normalised` (exact laws: `group_size`, `reward_support`).
    """
    require(0 < clip < 1, "clip", clip, "0 < clip < 1")
    if traj.old_logp is None:
        raise InputError("old_logp", None, "trajectories with old_logp (nats, f[B, S]): GRPO needs the ratio")
    A_Bx1 = advantage("group_normalised", reward_with_kl(traj, reward_kl), traj, **advantage_options)[:, None]
    rho_BxS = jnp.exp(masked(logp_BxS - jax.lax.stop_gradient(traj.old_logp), traj.mask))
    clipped_BxS = jnp.clip(rho_BxS, 1 - clip, 1 + (clip if clip_high is None else clip_high))
    loss = aggregate(-jnp.minimum(rho_BxS * A_Bx1, clipped_BxS * A_Bx1), traj, "sequence_mean")
    return _with_own_token_kl(loss, logp_BxS, traj, token_kl, kl_estimator, "sequence_mean")


def trajectory_kl(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """KL(P || P_ref) alone, as a loss: REINFORCE on the reward -log(P/P_ref); c = -Lam_i/B (T6)."""
    return reinforce(logp_BxS, traj.replace(reward=jnp.zeros_like(traj.reward)), reward_kl=1.0)

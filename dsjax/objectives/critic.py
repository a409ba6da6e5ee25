"""State values for PPO: exact ones on small processes, and the loss that fits a critic."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives.advantages import advantage
from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.objectives.kl import token_rewards_with_kl
from dsjax.objectives.ratios import recorded
from dsjax.trajectories import Trajectories


def exact_values(traj: Trajectories) -> jax.Array:
    """f[B, S]: E[R | prompt, all tokens drawn before this one] on an exact law; costs already paid are included.

    By comparing all pairs of trajectories, B x B x S: for small processes.
    """
    require(traj.exact, "trajectories", "samples", "an exact law (exact=True)")
    symbol_BxS = jnp.where(traj.mask, traj.tokens, -1)
    differs = (symbol_BxS[:, None, :] != symbol_BxS[None, :, :]).astype(jnp.int32)
    differs_before = jax.lax.cumsum(differs, axis=2) > differs
    same = (traj.group[:, None] == traj.group[None, :])[..., None] & ~differs_before
    mass_BxS = jnp.sum(jnp.where(same, traj.weight[None, :, None], 0.0), axis=1)
    total_BxS = jnp.sum(jnp.where(same, (traj.weight * traj.reward)[None, :, None], 0.0), axis=1)
    return jax.lax.stop_gradient(divide(total_BxS, mass_BxS))


def value_loss(
    value_BxS: jax.Array,
    traj: Trajectories,
    *,
    discount: float = 1.0,
    gae_lambda: float = 1.0,
    reward_kl: float = 0.0,
    clip: float | None = None,
    aggregation: str = "token_mean",
) -> SumCount:
    """1/2 (V - target)^2 per token, target = GAE advantage + `traj.values`; Schulman et al. (2016, 2017).

    lambda = 1 makes the target the return to go. With `clip`, the larger of this loss and that of V kept within `clip`
    of `traj.values`. `value_BxS` is the critic's present output, with gradient; `traj.values` the one that the
    advantages were computed with, without.
    """
    options = {"discount": discount, "gae_lambda": gae_lambda}
    value_BxS, old_BxS = masked(value_BxS, traj.mask), masked(recorded(traj, "values"), traj.mask)
    target_BxS = advantage("gae", token_rewards_with_kl(traj, reward_kl), traj, **options) + old_BxS
    loss_BxS = 0.5 * (value_BxS - target_BxS) ** 2
    if clip is not None:
        require(clip > 0, "clip", clip, "> 0")
        near_BxS = old_BxS + jnp.clip(value_BxS - old_BxS, -clip, clip)
        loss_BxS = jnp.maximum(loss_BxS, 0.5 * (near_BxS - target_BxS) ** 2)
    return aggregate(loss_BxS, traj, aggregation)

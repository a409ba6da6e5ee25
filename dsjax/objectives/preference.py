"""Preference objectives: pairs of trajectories of one prompt, the one with the larger return preferred.

On samples every pair of a group counts; on an exact law the sum is the expectation over two independent trajectories
of the prompt. Ties give no pair. Both build B x B pairs: for groups of samples and for small processes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.kl import log_ratio
from dsjax.objectives.registry import register
from dsjax.trajectories import Trajectories


def pair_weights(traj: Trajectories) -> jax.Array:
    """f[B, B]: weight of the pair (preferred i, other j): w_i w_j / (weight of the group), 0 unless R_i > R_j."""
    mass = jax.ops.segment_sum(traj.weight, traj.group, traj.num_groups)[traj.group]
    share_B = divide(traj.weight, mass)
    pair = (traj.group[:, None] == traj.group[None, :]) & (traj.reward[:, None] > traj.reward[None, :])
    return jax.lax.stop_gradient(jnp.where(pair, traj.weight[:, None] * share_B[None, :], 0.0))


def _pairwise(score_B: jax.Array, traj: Trajectories, loss: Callable[[jax.Array], jax.Array]) -> SumCount:
    """Weighted sum over pairs of loss(score of the preferred - score of the other), and the weight of all pairs."""
    weight_BxB = pair_weights(traj)
    gap_BxB = jnp.where(weight_BxB > 0, score_B[:, None] - score_B[None, :], 0.0)
    return jnp.sum(weight_BxB * loss(gap_BxB)), jnp.sum(weight_BxB)


@register("dpo", {"DPO": {}})
def dpo(logp_BxS: jax.Array, traj: Trajectories, *, beta: float = 0.1) -> SumCount:
    """DPO: -log sigmoid(beta (D_w - D_l)), D = sum_t log pi/pi_ref, mean over pairs. Rafailov et al. (2023).

    c = +-beta sigmoid(-beta (D_w - D_l)) / pairs, on every token of the preferred (+) and the other (-) trajectory.
    """
    require(beta > 0, "beta", beta, "> 0")
    drift_B = jnp.sum(log_ratio(logp_BxS, traj), axis=-1)
    return _pairwise(drift_B, traj, lambda gap: -jax.nn.log_sigmoid(beta * gap))


@register("ipo", {"IPO": {}})
def ipo(logp_BxS: jax.Array, traj: Trajectories, *, beta: float = 0.1) -> SumCount:
    """IPO: (gap of the per-token mean log-ratios - 1/(2 beta))^2, mean over pairs. Azar et al. (2023).

    c = +-2 (1/(2 beta) - gap) / (T_i pairs). Means over tokens are the choice of TRL; the article has sums.
    """
    require(beta > 0, "beta", beta, "> 0")
    drift_B = jnp.sum(log_ratio(logp_BxS, traj), axis=-1) / jnp.maximum(traj.num_tokens, 1.0)
    return _pairwise(drift_B, traj, lambda gap: (gap - 1 / (2 * beta)) ** 2)

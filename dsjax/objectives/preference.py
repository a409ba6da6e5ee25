"""Preference objectives: pairs of trajectories of one prompt, the one with the larger return preferred, or labels.

On samples every pair of a group counts; on an exact law the sum is the expectation over two independent trajectories
of the prompt. Ties give no pair. They build B x B pairs: for groups of samples and for small processes. KTO takes
single trajectories, desirable or not.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives.aggregation import SumCount, masked
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


PAIR_LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {  # of beta times the gap
    "sigmoid": lambda gap: -jax.nn.log_sigmoid(gap),
    "hinge": lambda gap: jax.nn.relu(1 - gap),
}


def _per_sequence(value_BxS: jax.Array, traj: Trajectories, token_mean: bool) -> jax.Array:
    """f[B]: the sum over tokens, or their mean; 0 without a token."""
    total_B = jnp.sum(masked(value_BxS, traj.mask), axis=-1)
    return total_B / jnp.maximum(traj.num_tokens, 1.0) if token_mean else total_B


@register("dpo", {"DPO": {}})
def dpo(
    logp_BxS: jax.Array, traj: Trajectories, *, beta: float = 0.1, loss: str = "sigmoid", token_mean: bool = False
) -> SumCount:
    """DPO: -log sigmoid(beta (D_w - D_l)), D = sum_t log pi/pi_ref, mean over pairs. Rafailov et al. (2023).

    c = +-beta sigmoid(-beta (D_w - D_l)) / pairs, on every token of the preferred (+) and the other (-) trajectory.
    `loss="hinge"`: max(0, 1 - beta (D_w - D_l)), c = +-beta 1[beta (D_w - D_l) < 1] / pairs (SLiC). `token_mean`: D is
    divided by T_i, and c with it: tilted by 1/T_i (TRL `sigmoid_norm`).
    """
    require(beta > 0, "beta", beta, "> 0")
    require(loss in PAIR_LOSSES, "loss", loss, PAIR_LOSSES)
    drift_B = _per_sequence(log_ratio(logp_BxS, traj), traj, token_mean)
    return _pairwise(drift_B, traj, lambda gap: PAIR_LOSSES[loss](beta * gap))


@register("ipo", {"IPO": {}})
def ipo(logp_BxS: jax.Array, traj: Trajectories, *, beta: float = 0.1) -> SumCount:
    """IPO: (gap of the per-token mean log-ratios - 1/(2 beta))^2, mean over pairs. Azar et al. (2023).

    c = +-2 (1/(2 beta) - gap) / (T_i pairs). Means over tokens are the choice of TRL; the article has sums.
    """
    require(beta > 0, "beta", beta, "> 0")
    drift_B = _per_sequence(log_ratio(logp_BxS, traj), traj, token_mean=True)
    return _pairwise(drift_B, traj, lambda gap: (gap - 1 / (2 * beta)) ** 2)


@register("simpo", {"SimPO": {}})
def simpo(logp_BxS: jax.Array, traj: Trajectories, *, beta: float = 2.0, margin: float = 1.0) -> SumCount:
    """SimPO: -log sigmoid(beta (l_w - l_l) - margin), l = mean_t log pi: no reference. Meng et al. (2024).

    c = +-beta sigmoid(margin - beta (l_w - l_l)) / (T_i pairs), mean over pairs. TRL's `simpo_gamma` is this margin: it
    divides by beta inside and multiplies by it outside.
    """
    require(beta > 0, "beta", beta, "> 0")
    score_B = _per_sequence(logp_BxS, traj, token_mean=True)
    return _pairwise(score_B, traj, lambda gap: PAIR_LOSSES["sigmoid"](beta * gap - margin))


@register("kto", {"KTO": {}})
def kto(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    beta: float = 0.1,
    threshold: float = 1.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    reference_point: float | None = None,
) -> SumCount:
    """KTO: w (1 - sigmoid(beta s (x - z))), x = sum_t log pi/pi_ref; mean over sequences. Ethayarajh et al. (2024).

    s = 1 and w = `desirable_weight` where R >= threshold, else s = -1 and w = `undesirable_weight`: no pairs, one label
    a trajectory. c = s w beta v (1 - v) / B with v = sigmoid(beta s (x - z)), on every token.

    z is data: max(0, mean of x over the batch), on an exact law on-policy KL(P || P_ref); parts of a batch share it as
    `reference_point`. TRL estimates it from answers paired with other prompts, which rollouts do not have.
    """
    require(beta > 0, "beta", beta, "> 0")
    x_B = _per_sequence(log_ratio(logp_BxS, traj), traj, token_mean=False)
    mass = jnp.sum(traj.weight)
    z = jnp.maximum(divide(jnp.sum(traj.weight * x_B), mass), 0.0) if reference_point is None else reference_point
    desirable_B = traj.reward >= threshold
    s_B, w_B = (
        jnp.where(desirable_B, jnp.asarray(a, x_B.dtype), jnp.asarray(b, x_B.dtype))
        for a, b in ((1.0, -1.0), (desirable_weight, undesirable_weight))
    )
    loss_B = w_B * (1 - jax.nn.sigmoid(beta * s_B * (x_B - jax.lax.stop_gradient(z))))
    return jnp.sum(traj.weight * loss_B), mass

"""Supervised objectives: no reward, or a reward that only selects; no negative coefficient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.objectives.registry import ROWS, Entry, register
from dsjax.trajectories import Trajectories


@register("sft", {"SFT": {}}, demonstrations=True)
def sft(
    logp_BxS: jax.Array, traj: Trajectories, *, decision_weight: float = 1.0, aggregation: str = "token_mean"
) -> SumCount:
    """Cross-entropy, weighted token mean: -sum_it m_it log pi(y_it) / sum_it m_it; c = m_it/N_w.

    m = 1 on sampling tokens and `decision_weight` (w) on decision tokens; w = 1 is the plain token mean. With
    `aggregation="sequence_sum"` the divisor is the number of sequences: c = m_it/B.
    """
    require(decision_weight >= 0, "decision_weight", decision_weight, "w >= 0")
    known = ("token_mean", "sequence_sum")
    require(aggregation in known, "aggregation", aggregation, known)
    m_BxS = jnp.where(traj.sample_mask, 1.0, jnp.where(traj.decision_mask, decision_weight, 0.0)).astype(logp_BxS.dtype)
    total, count = aggregate(m_BxS * masked(-logp_BxS, traj.mask), traj, aggregation)
    if aggregation == "token_mean":
        count = jnp.sum(traj.weight * jnp.sum(m_BxS, axis=-1))
    return total, count


@register("sft_sequence_sum", {"SFT, sum": {}}, demonstrations=True)
def sft_sequence_sum(logp_BxS: jax.Array, traj: Trajectories, *, decision_weight: float = 1.0) -> SumCount:
    """Cross-entropy, sum over tokens, mean over sequences: -sum_it m_it log pi(y_it) / B; c = m_it/B."""
    return sft(logp_BxS, traj, decision_weight=decision_weight, aggregation="sequence_sum")


ROWS["SFT, weight 32"] = Entry("sft", {"decision_weight": 32.0}, demonstrations=True)


@register("rft", {"RFT": {}})
def rft(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    threshold: float = 1.0,
    decision_weight: float = 1.0,
    aggregation: str = "token_mean",
) -> SumCount:
    """SFT on own samples that succeed; c = 1[R_i >= threshold]/N, N the tokens of the kept trajectories.

    Rejection-sampling fine-tuning, Yuan et al. (2023). On-policy and with a binary return it is REINFORCE without a
    baseline, divided by N/B. Nothing kept gives (0, 0). With a resampling cost a late success has R < 1: lower the
    threshold to keep it.
    """
    kept_B = (traj.reward >= threshold).astype(traj.weight.dtype)
    kept = traj.replace(weight=traj.weight * kept_B)
    return sft(logp_BxS, kept, decision_weight=decision_weight, aggregation=aggregation)


@register("dft", {"DFT": {}}, demonstrations=True)
def dft(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """Dynamic fine-tuning: -sg(pi(y_it)) log pi(y_it), token mean; c = pi(y_it)/N. Wu et al. (2025)."""
    logp_BxS = masked(logp_BxS, traj.mask)
    return aggregate(-jax.lax.stop_gradient(jnp.exp(logp_BxS)) * logp_BxS, traj, "token_mean")

"""KL and entropy alone, as losses: what reward objectives add to their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.objectives.advantages import advantage
from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.objectives.kl import log_ratio, minus_entropy, token_kl
from dsjax.objectives.registry import ROWS, Entry, register
from dsjax.objectives.surrogate import surrogate
from dsjax.trajectories import Trajectories


@register("own_token_kl", {f"KL loss, {estimator}": {"estimator": estimator} for estimator in ("k1", "k2", "k3")})
def own_token_kl(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    estimator: str = "k2",
    aggregation: str = "sequence_sum",
    max_tokens: int | None = None,
) -> SumCount:
    """KL in the loss: each token is charged its own estimate and nothing later.

    With x = log pi/pi_ref the coefficient is c = -1 for k1, -x for k2, -(1 - exp(-x)) for k3 and, on-policy, -x for
    k3_ratio, over the normaliser. Expected gradient on-policy, per context: k1 zero (regularises nothing); k2 and
    k3_ratio the reverse KL to the reference; k3 the forward KL. The law of the contexts is data: this is not the
    gradient of KL(P || P_ref). Estimators: Schulman, "Approximating KL divergence" (2020).
    """
    return aggregate(token_kl(logp_BxS, traj, estimator), traj, aggregation, max_tokens)


@register("trajectory_kl", {"trajectory KL": {}})
def trajectory_kl(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """KL(P || P_ref) alone, as a loss: REINFORCE on the reward -log(P/P_ref); c = -Lam_i/B (T6)."""
    return surrogate(logp_BxS, traj.replace(reward=jnp.zeros_like(traj.reward)), reward_kl=1.0)


@register("distillation", {"distillation, g = 0.9": {"discount": 0.9}})
def distillation(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    discount: float = 0.0,
    aggregation: str = "sequence_sum",
    max_tokens: int | None = None,
) -> SumCount:
    """On-policy distillation from the reference: -A log pi, A_t = sum_k g^k (log pi_ref - log pi)_{t+k}; data.

    c = -(sum_k g^k x_{t+k}) over the normaliser, x = log pi/pi_ref, g = `discount`. g = 0 charges a token for itself,
    the own-token KL (k2, T6); g = 1 for all that follows too, on-policy with the expected gradient of the trajectory
    KL (T7). MiniLLM, Gu et al. (2024). TRL counts k from the start of the answer: a further factor g^t, unless it
    divides by the length.
    """
    reward_BxS = -jax.lax.stop_gradient(log_ratio(logp_BxS, traj))
    A_BxS = advantage("returns_to_go", reward_BxS, traj, discount=discount)
    return aggregate(-A_BxS * masked(logp_BxS, traj.mask), traj, aggregation, max_tokens)


ROWS["reward + traj. KL"] = Entry("reinforce", {"reward_kl": 0.1})


@register("entropy_bonus", {"entropy bonus": {}})
def entropy_bonus(
    logp_BxS: jax.Array, traj: Trajectories, *, aggregation: str = "sequence_sum", max_tokens: int | None = None
) -> SumCount:
    """Minus the entropy of each token's law, as a loss; c = (-log pi(y_it) - 1) over the normaliser.

    The entropy is estimated by -log pi of the drawn token. Its gradient is that of the expectation, in score-function
    form: grad E[-log pi] = E[(-log pi - 1) score], on-policy; the -1 has mean zero. The derivative of -log pi itself is
    a coefficient of -1 on every token: a bonus in that form does nothing in expectation. The law of the contexts is
    data, as in `own_token_kl`.
    """
    return aggregate(minus_entropy(logp_BxS, traj), traj, aggregation, max_tokens)

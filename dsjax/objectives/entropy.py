"""Entropy bonus from the log-probs of drawn tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.objectives.aggregation import SumCount, aggregate, masked
from dsjax.trajectories import Trajectories


def entropy_bonus(
    logp_BxS: jax.Array, traj: Trajectories, *, aggregation: str = "sequence_sum", max_tokens: int | None = None
) -> SumCount:
    """Minus the entropy of each token's law, as a loss; c = (-log pi(y_it) - 1) over the normaliser.

    The entropy is estimated by -log pi of the drawn token. Its gradient is that of the expectation, in score-function
    form: grad E[-log pi] = E[(-log pi - 1) score], on-policy; the -1 has mean zero. The derivative of -log pi itself is
    a coefficient of -1 on every token: a bonus in that form does nothing in expectation. The law of the contexts is
    data, as in `own_token_kl`.
    """
    logp_BxS = masked(logp_BxS, traj.mask)
    once_BxS = jnp.exp(logp_BxS - jax.lax.stop_gradient(logp_BxS))  # 1, with the derivative of a ratio
    return aggregate(once_BxS * logp_BxS, traj, aggregation, max_tokens)

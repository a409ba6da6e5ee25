"""T2, sampled: GRPO has one coefficient a trajectory, with its number of tokens inside of the payoff."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.objectives import grpo
from dsjax.policies import Params, log_probs
from proofs_check.statistical.closed_forms import returns
from proofs_check.statistical.estimator import Estimator, Wrong, closed, enumerated, sampled
from proofs_check.statistical.settings import EPSILON, MEMBERS, Setting
from proofs_check.theorems.t12_grpo.numeric import factor


def grpo_gradient(setting: Setting, *, mean_length: bool = False) -> Params:
    """E[c_G(p) (R - p) / T_i sum grad log pi]; `mean_length` (wrong) divides by E[T_i] instead."""
    traj = setting.exact
    p_B = returns(setting, setting.params)[traj.prompt[:, 0]]
    tokens_B = (jnp.sum(traj.sample_mask, -1) + jnp.sum(traj.decision_mask, -1)).astype(traj.weight.dtype)
    if mean_length:
        tokens_B = jnp.sum(traj.weight * tokens_B)
    w_B = traj.weight * factor(p_B, MEMBERS, EPSILON) * (traj.reward - p_B) / tokens_B
    return jax.grad(lambda p: jnp.sum(w_B * jnp.sum(log_probs(setting.policy, p, traj), -1)))(setting.params)


ESTIMATORS = (
    Estimator(
        "GRPO",
        "T2",
        "E[c_G (R - p)/T_i score]",
        "binary",
        sampled(grpo),
        enumerated(grpo),
        closed(grpo_gradient),
        Wrong("E[T_i] for T_i", expected=closed(lambda setting: grpo_gradient(setting, mean_length=True))),
    ),
)

"""Expected gradients as the statements give them, from dense tables: no objective, no advantage, no token loop."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp

from dsjax.policies import Params, log_probs
from proofs_check.statistical.settings import MEMBERS, Setting

GRPO_EPSILON = 1e-4  # the library's default


def returns(setting: Setting, params: Params) -> jax.Array:
    """f[Q]: V_1(q), differentiable in the parameters."""
    process = setting.process
    return process.values(process.tables(log_probs(setting.policy, params, setting.exact))).V[0][:, 0]


def return_gradient(setting: Setting) -> Params:
    """grad J, by differentiating the backward recursion."""
    return jax.grad(lambda p: jnp.sum(setting.process.prompt_law * returns(setting, p)))(setting.params)


def prompt_factor(p: jax.Array, epsilon: float = GRPO_EPSILON) -> jax.Array:
    """c_G(p) = E[std_G^2 / (std_G + epsilon)] / (p (1 - p)), std_G = sqrt(k (G - k)) / G, k ~ Bin(G, p) (T12)."""
    G, total = MEMBERS, jnp.zeros_like(p)
    for k in range(1, G):  # groups of equal returns give 0
        std = (k * (G - k)) ** 0.5 / G
        total = total + comb(G, k) * p**k * (1 - p) ** (G - k) * std**2 / (std + epsilon)
    return total / (p * (1 - p))

"""Expected gradients as the statements give them, from dense tables: no objective, no advantage, no token loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.policies import Params, log_probs
from proofs_check.statistical.settings import Setting


def returns(setting: Setting, params: Params) -> jax.Array:
    """f[Q]: V_1(q), differentiable in the parameters."""
    process = setting.process
    return process.values(process.tables(log_probs(setting.policy, params, setting.exact))).V[0][:, 0]


def return_gradient(setting: Setting) -> Params:
    """grad J, by differentiating the backward recursion."""
    return jax.grad(lambda p: jnp.sum(setting.process.prompt_law * returns(setting, p)))(setting.params)

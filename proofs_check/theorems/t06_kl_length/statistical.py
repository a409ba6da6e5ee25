"""T6, sampled: what the KL estimators do in the loss, and the trajectory KL in the reward."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from dsjax.objectives import own_token_kl, reinforce
from dsjax.policies import Params, log_probs
from proofs_check.closed_forms import context_counts
from proofs_check.statistical.closed_forms import return_gradient
from proofs_check.statistical.estimator import Estimator, Wrong, closed, enumerated, forced_stop_counted, sampled
from proofs_check.statistical.settings import Setting

BETA = 0.3  # trajectory KL in the reward


def trajectory_kl_gradient(setting: Setting) -> Params:
    """grad KL(P || P_ref), by differentiating the sum over all trajectories."""
    traj = setting.exact
    assert traj.ref_logp is not None
    log_reference_B = jnp.sum(traj.ref_logp, -1)

    def kl(params: Params) -> jax.Array:
        log_law_B = jnp.sum(log_probs(setting.policy, params, traj), -1)
        return jnp.sum(
            setting.process.prompt_law[traj.prompt[:, 0]] * jnp.exp(log_law_B) * (log_law_B - log_reference_B)
        )

    return jax.grad(kl)(setting.params)


def local_kl_gradient(setting: Setting, direction: str) -> Params:
    """sum_x n(x) grad KL at x: `reverse` n pi (log pi/pi_ref - KL), `forward` n (pi - pi_ref)."""
    counts = context_counts(setting.process, setting.exact.weight)

    def table(counts: jax.Array, logits: jax.Array, reference: jax.Array) -> jax.Array:
        log_pi, log_ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
        n, pi = jnp.sum(counts, -1, keepdims=True), jnp.exp(log_pi)
        if direction == "forward":
            return n * (pi - jnp.exp(log_ref))
        drift = log_pi - log_ref
        return n * pi * (drift - jnp.sum(pi * drift, -1, keepdims=True))

    return jax.tree.map(table, counts, setting.params, setting.reference)


def _no_gradient(setting: Setting) -> jax.Array:
    return jnp.zeros_like(_REVERSE(setting))


def _regularised(setting: Setting) -> jax.Array:
    return closed(return_gradient)(setting) - BETA * closed(trajectory_kl_gradient)(setting)


_REVERSE = closed(partial(local_kl_gradient, direction="reverse"))
_K1, _K2, _K3 = (partial(own_token_kl, estimator=name) for name in ("k1", "k2", "k3"))
_IN_REWARD = partial(reinforce, baseline="leave_one_out", reward_kl=BETA)
_IN_LOSS = partial(reinforce, baseline="leave_one_out", token_kl=BETA, kl_estimator="k2")

ESTIMATORS = (
    Estimator(
        "k1 in the loss",
        "T6",
        "0",
        "binary",
        sampled(_K1),
        enumerated(_K1),
        _no_gradient,
        Wrong("forced stop counted as a decision", sampled(_K1, forced_stop_counted)),
        direction=_REVERSE,
    ),
    Estimator(
        "k2 in the loss",
        "T6",
        "reverse KL per prefix",
        "binary",
        sampled(_K2),
        enumerated(_K2),
        closed(partial(local_kl_gradient, direction="reverse"), -1.0),
        Wrong("k1 for k2", sampled(_K1)),
    ),
    Estimator(
        "k3 in the loss",
        "T6",
        "forward KL per prefix",
        "binary",
        sampled(_K3),
        enumerated(_K3),
        closed(partial(local_kl_gradient, direction="forward"), -1.0),
        Wrong("k2 for k3", sampled(_K2)),
    ),
    Estimator(
        f"KL in the reward, beta = {BETA}",
        "T6",
        "grad (J - beta KL(P || P_ref))",
        "graded",
        sampled(_IN_REWARD),
        enumerated(_IN_REWARD),
        _regularised,
        Wrong("k2 in the loss for it", sampled(_IN_LOSS)),
    ),
)

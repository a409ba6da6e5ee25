"""tunix: metrics for the `aux_metrics` of a loss function, and the arrays of its `TrainExample`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dsjax.adapters.recorder import Arrays, needed
from dsjax.attribution import per_token, share
from dsjax.errors import require
from dsjax.objectives import resolve
from dsjax.objectives.given import with_advantage
from dsjax.objectives.registry import name_of
from dsjax.objectives.returns import coefficients
from dsjax.trajectories import Trajectories


def rollouts(example: Any, logp: jax.Array | None = None) -> Arrays:
    """The arrays of a `TrainExample`, packed rows too; its advantages stand for the rewards that it does not keep.

    Args:
      example: of tunix.
      logp: f[B, S] under the present policy, nats; `old_per_token_logps` by default.

    Raises:
      InputError: where neither is there: tunix leaves old log-probs out where each batch has one update.
    """
    old = example.old_per_token_logps
    present = needed({"logp": old if logp is None else logp}, "logp", "logp, or an example with old_per_token_logps")
    return {
        "tokens": example.completion_ids,
        "sample_mask": example.completion_mask,
        "logp": present,
        "old_logp": present if old is None else old,
        "ref_logp": example.ref_per_token_logps,
        "advantage": example.advantages,
        "segment_ids": example.segment_ids,
    }


def decision_metrics(
    objective: str,
    logp: jax.Array,
    completion_mask: jax.Array,
    decision_mask: jax.Array,
    advantages: jax.Array,
    *,
    old_logp: jax.Array | None = None,
    ref_logp: jax.Array | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """How an objective shares its coefficients c_it = -d loss/d logp_it between the components; pure, for `jit`.

    `share_of_tokens` is convention (ii) of docs/theory.md, mean |c| of a decision over that and the mean |c| of a
    sampling token; `share_of_coefficients` is (iii), the decisions' part of all |c|; `net_decision` and `net_sample`
    are the sums of c. NaN where there is nothing to share. Gradients do not flow through.

    Args:
      objective: a name of the registry that takes advantages, or `module:function`.
      logp: f[B, S] under the present policy, nats.
      completion_mask: [B, S] drawn tokens, 0 and 1.
      decision_mask: [B, S] those that decide, e.g. `jnp.isin(completion_ids, ids)`.
      advantages: f[B] or f[B, S].
      old_logp: f[B, S] before the update; `logp` by default: on-policy.
      ref_logp: f[B, S] under the reference.
      options: of the objective.

    Returns:
      {metric: f[]}, each name with `dsjax/` in front.

    Raises:
      InputError: for an objective that takes no advantages.
    """
    logp, options = jax.lax.stop_gradient(logp), dict(options or {})
    decision = completion_mask.astype(bool) & decision_mask.astype(bool)
    B, S = logp.shape
    function = with_advantage(resolve(objective, options), jax.lax.stop_gradient(advantages), options)
    require(function is not None, "objective", name_of(objective), "one that takes advantages in place of its own")
    assert function is not None
    traj = Trajectories.create(
        tokens=jnp.zeros((B, S), jnp.int32),
        prompt=jnp.zeros((B, 1), jnp.int32),
        sample_mask=completion_mask.astype(bool) & ~decision,
        decision_mask=decision,
        round=jnp.zeros((B, S), jnp.int32),
        reward=jnp.zeros(B, logp.dtype),
        weight=jnp.full(B, 1 / B, logp.dtype),
        group=jnp.zeros(B, jnp.int32),
        old_logp=logp if old_logp is None else old_logp,
        ref_logp=ref_logp,
    )
    s, d = per_token(coefficients(function, logp, traj), traj)
    found = {
        "share_of_tokens": share(d.mean, s.mean),
        "share_of_coefficients": share(jnp.sum(d.absolute), jnp.sum(s.absolute)),
        "net_sample": jnp.sum(s.signed),
        "net_decision": jnp.sum(d.signed),
    }
    return {f"dsjax/{name}": x for name, x in found.items()}

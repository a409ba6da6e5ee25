"""Corrections where the engine that sampled (mu) is not quite the trainer's policy before the update (pi_old).

With w_it = pi_old(y_it)/mu(y_it) from `old_logp` and `sampler_logp`, a correction gives every token of the policy
loss a weight, as data, and says which tokens are rejected. Sequence rules give all tokens of a trajectory one weight,
so they keep its balance between the components; token rules do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.errors import require
from dsjax.objectives.aggregation import masked
from dsjax.objectives.options import taken
from dsjax.objectives.ratios import LOG_RATIO_LIMIT, RATIOS, recorded
from dsjax.trajectories import Trajectories


class Correction(NamedTuple):
    """Of each token."""

    weight: jax.Array  # f[B, S], 0 where rejected
    kept: jax.Array  # bool[B, S]


def _inside(w: jax.Array, low: float, high: float) -> jax.Array:
    return (w >= low) & (w <= high)


def _truncate(w: jax.Array, *, mismatch_high: float = 2.0) -> Correction:
    """min(w, C)."""
    return Correction(jnp.minimum(w, mismatch_high), jnp.ones_like(w, bool))


def _mask(w: jax.Array, *, mismatch_low: float = 0.5, mismatch_high: float = 5.0) -> Correction:
    """w inside of [low, high], 0 outside."""
    kept = _inside(w, mismatch_low, mismatch_high)
    return Correction(jnp.where(kept, w, 0.0), kept)


def _drop(w: jax.Array, *, mismatch_low: float = 0.99, mismatch_high: float = 1.01) -> Correction:
    """1 inside of [low, high], 0 outside."""
    kept = _inside(w, mismatch_low, mismatch_high)
    return Correction(kept.astype(w.dtype), kept)


MISMATCH: dict[str, tuple[str, Callable[..., Correction]]] = {  # of which ratio, and what is done with it
    "token_truncate": ("token", _truncate),  # TIS: verl `rollout_is=token`, TRL, NeMo-RL `tis`
    "sequence_truncate": ("sequence", _truncate),  # verl `rollout_is=sequence`, TRL
    "token_mask": ("token", _mask),  # IcePop: NeMo-RL `icepop`, TRL
    "sequence_mask": ("sequence", _mask),  # TRL; verl `seq_sum_k1` with `rollout_is=sequence`
    "geometric_drop": ("geometric", _drop),  # verl `seq_mean_k1`
}


def correction(
    name: str, traj: Trajectories, *, mismatch_low: float | None = None, mismatch_high: float | None = None
) -> Correction:
    """The correction of that name, from `old_logp` and `sampler_logp`; data, no gradient.

    token_truncate min(w, C); sequence_truncate min(prod_t w, C); token_mask w inside of [low, high], else rejected;
    sequence_mask the same of prod_t w; geometric_drop 1 for a row whose (prod_t w)^(1/T_i) is inside, else rejected.

    Raises:
      InputError: for an unknown name, a missing field, or bounds that are not 0 < low <= high.
    """
    require(name in MISMATCH, "mismatch", name, ["none", *MISMATCH])
    kind, rule = MISMATCH[name]
    bounds = taken(f"mismatch {name}", rule, {"mismatch_low": mismatch_low, "mismatch_high": mismatch_high})
    for field, bound in bounds.items():
        require(bound > 0, field, bound, "> 0")
    if mismatch_low is not None and mismatch_high is not None:
        require(mismatch_low <= mismatch_high, "mismatch_low", mismatch_low, f"at most mismatch_high {mismatch_high}")
    log_w = masked(recorded(traj, "old_logp") - recorded(traj, "sampler_logp"), traj.mask)
    log_w = RATIOS[kind](log_w, jnp.maximum(traj.num_tokens, 1.0)[:, None])
    return rule(jnp.exp(jnp.minimum(log_w, LOG_RATIO_LIMIT)), **bounds)


def without(traj: Trajectories, rejected: jax.Array) -> Trajectories:
    """The trajectories without the rejected tokens, which leave every mask and with it every divisor."""
    return traj.replace(sample_mask=traj.sample_mask & ~rejected, decision_mask=traj.decision_mask & ~rejected)

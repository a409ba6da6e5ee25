"""T1, sampled: REINFORCE has the mean grad J."""

from __future__ import annotations

import jax.numpy as jnp

from dsjax.objectives import reinforce
from dsjax.trajectories import Trajectories
from proofs_check.statistical.closed_forms import return_gradient
from proofs_check.statistical.estimator import Estimator, Wrong, closed, enumerated, forced_stop_counted, sampled
from proofs_check.statistical.settings import Setting


def _cost_left_out(setting: Setting, traj: Trajectories) -> Trajectories:
    resamples_B = jnp.max(jnp.where(traj.mask, traj.round, 0), axis=-1)  # tau - 1
    return traj.replace(reward=traj.reward + setting.process.cost * resamples_B.astype(traj.reward.dtype))


ESTIMATORS = tuple(
    Estimator(
        name,
        "T1",
        "grad J",
        setting,
        sampled(reinforce),
        enumerated(reinforce),
        closed(return_gradient),
        Wrong(wrong, sampled(reinforce, prepare)),
    )
    for name, setting, wrong, prepare in (
        ("REINFORCE", "binary", "forced stop counted as a decision", forced_stop_counted),
        ("REINFORCE, history and cost", "graded", "cost left out of the return", _cost_left_out),
    )
)

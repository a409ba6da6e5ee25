"""T12, sampled: baselines of a finite group, and the factor that dividing by its standard deviation brings."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from dsjax.objectives import Objective, SumCount, biased_per_turn, reinforce, rloo
from dsjax.policies import Params
from dsjax.trajectories import Trajectories
from proofs_check.statistical.closed_forms import return_gradient, returns
from proofs_check.statistical.estimator import Estimator, Wrong, closed, enumerated, sampled
from proofs_check.statistical.settings import BATCH, EPSILON, MEMBERS, Setting
from proofs_check.theorems.t12_grpo.numeric import factor

TILT = 1.05  # of a decision coefficient that must be noticed


def group_normalised_gradient(setting: Setting) -> Params:
    """sum_q mu(q) c_G(p_q) grad p_q."""
    p_Q, pull_back = jax.vjp(lambda params: returns(setting, params), setting.params)
    return pull_back(setting.process.prompt_law * factor(p_Q, MEMBERS, EPSILON))[0]


def _tilted(objective: Objective) -> Objective:
    """The objective with TILT times the coefficient on decisions (it must be linear in the log-probs)."""

    def wrong(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        return objective(jnp.where(traj.decision_mask, TILT * logp_BxS, logp_BxS), traj)

    return wrong


_J = closed(return_gradient)
_BATCH_MEAN = partial(reinforce, baseline="batch_mean")
_GROUP_MEAN = partial(reinforce, baseline="group_mean")
_NORMALISED = partial(reinforce, baseline="group_normalised")

ESTIMATORS = (
    Estimator(
        "leave-one-out",
        "T12",
        "grad J",
        "binary",
        sampled(rloo),
        enumerated(rloo),
        _J,
        Wrong("baselines per turn, summed over the turns to go", sampled(biased_per_turn)),
    ),
    Estimator(
        "leave-one-out, history and cost",
        "T12",
        "grad J",
        "graded",
        sampled(rloo),
        enumerated(rloo),
        _J,
        Wrong(f"decision coefficient x {TILT}", sampled(_tilted(rloo))),
    ),
    Estimator(
        "batch mean",
        "T12",
        f"(B - 1)/B grad J, B = {BATCH}",
        "binary",
        sampled(_BATCH_MEAN),
        enumerated(_BATCH_MEAN, (BATCH - 1) / BATCH),
        closed(return_gradient, (BATCH - 1) / BATCH),
        Wrong("said to be unbiased", expected=_J),
    ),
    Estimator(
        "group mean",
        "T12",
        f"(G - 1)/G grad J, G = {MEMBERS}",
        "position-wise",  # with equal groups it is (G - 1)/G of leave-one-out: on the same batches nothing new
        sampled(_GROUP_MEAN),
        enumerated(_GROUP_MEAN),
        closed(return_gradient, (MEMBERS - 1) / MEMBERS),
        Wrong("said to be unbiased", expected=_J),
    ),
    Estimator(
        "group normalised",
        "T12",
        "sum_q mu c_G(p) grad p",
        "binary",
        sampled(_NORMALISED),
        enumerated(_NORMALISED),
        closed(group_normalised_gradient),
        Wrong("std said to be 1", expected=closed(return_gradient, (MEMBERS - 1) / MEMBERS)),
    ),
)

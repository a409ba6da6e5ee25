"""T23, sampled: MaxRL ascends success rates; OPO's baseline, with the own return in it, is biased as stated."""

from __future__ import annotations

from functools import partial

import jax

from dsjax.objectives import reinforce
from dsjax.policies import Params, log_probs
from proofs_check.statistical.closed_forms import return_gradient, returns
from proofs_check.statistical.estimator import Estimator, Wrong, closed, enumerated, sampled
from proofs_check.statistical.settings import MEMBERS, Setting
from proofs_check.theorems.t23_success_rates.numeric import (
    expected_advantage,
    lengths,
    of_lengths,
    smoothed,
    stopping,
)

EPSILON = 1e-6  # beside the mean of a group: the library's default

_MAXRL = partial(reinforce, baseline="maxrl")
_OPO = partial(reinforce, baseline="opo")


def maxrl_gradient(setting: Setting) -> Params:
    """sum_q mu(q) c(p_q) grad p_q."""
    p_Q, pull_back = jax.vjp(lambda params: returns(setting, params), setting.params)
    return pull_back(setting.process.prompt_law * smoothed(p_Q, MEMBERS, EPSILON))[0]


def opo_gradient(setting: Setting) -> Params:
    """The gradient of E[R (1 - s_tau) - g_tau] with s and g held fixed."""
    process, traj = setting.process, setting.exact
    found = of_lengths(*stopping(process, traj), lengths(process.rounds, process.length), MEMBERS)
    payoff_B = expected_advantage(process, traj.reward, found)

    def mean(params: Params) -> jax.Array:
        return process.expected_return(process.tables(log_probs(setting.policy, params, traj)), payoff_B)

    return jax.grad(mean)(setting.params)


ESTIMATORS = (
    Estimator(
        "MaxRL",
        "T23",
        "sum_q mu grad sum_(k<G) pass@k/k",
        "binary",
        sampled(_MAXRL),
        enumerated(_MAXRL),
        closed(maxrl_gradient),
        Wrong("(G-1)/G of grad J", expected=closed(return_gradient, (MEMBERS - 1) / MEMBERS)),
    ),
    Estimator(
        "OPO",
        "T23",
        "grad E[R (1 - s_tau) - g_tau]",
        "graded",
        sampled(_OPO),
        enumerated(_OPO),
        closed(opo_gradient),
        Wrong("(G-1)/G of grad J", expected=closed(return_gradient, (MEMBERS - 1) / MEMBERS)),
    ),
)

"""The sampled estimators: the library's value on a batch, its exact expectation, the statement, a wrong variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import ComponentGradients, component_gradients, energy, fisher, signal_to_noise
from dsjax.objectives import Objective, SumCount, biased_per_turn, grpo, own_token_kl, reinforce, rloo
from dsjax.policies import Params
from dsjax.trajectories import Trajectories
from proofs_check.statistical import closed_forms as stated
from proofs_check.statistical.settings import GROUPS, MEMBERS, Setting
from proofs_check.theorem import Provenance

BETA = 0.3  # trajectory KL in the reward
BATCH = GROUPS * MEMBERS
TILT = 1.05  # of a decision coefficient that must be noticed

Sample = Callable[[Setting, Trajectories], jax.Array]  # f[p] from one sampled batch
Exact = Callable[[Setting], jax.Array]  # f[p]


class Wrong(NamedTuple):
    """A wrong variant: another estimator for the same expectation, or another expectation for the same estimator."""

    name: str
    sample: Sample | None = None
    expected: Exact | None = None


@dataclass(frozen=True)
class Estimator:
    """One row of the report.

    Attributes:
      name: what is sampled.
      theorem: statement that gives its expectation.
      provenance: tag of that statement.
      claim: the expectation in words.
      setting: name of the process, a key of `SETTINGS`.
      sample: the library's estimate on one batch.
      expected: its expectation over the enumerated law, by the same objective.
      stated: its expectation in closed form, by other code.
      control: what must be rejected.
      direction: what a detectable bias is relative to; `expected` unless that is 0.
      decider: how many coordinates, the last ones, belong to pi_d; by default the contexts of its table.
    """

    name: str
    theorem: str
    provenance: Provenance
    claim: str
    setting: str
    sample: Sample
    expected: Exact
    stated: Exact
    control: Wrong
    direction: Exact | None = None
    decider: int | None = None


def coordinates(sample: Params, decision: Params) -> jax.Array:
    """f[p]: each component's own table, without the last logit of a context (a softmax gradient sums to 0 there).

    A gradient that reaches the wrong component's table is not seen as its own.
    """
    tables = (sample["sample"], decision["decide"])
    return jnp.concatenate([x[..., :-1].reshape(-1) for x in tables])


def _of(gradients: ComponentGradients) -> jax.Array:
    return coordinates(gradients.sample, gradients.decision)


def _closed(gradient: Callable[[Setting], Params], scale: float = 1.0) -> Exact:
    def vector(setting: Setting) -> jax.Array:
        tree = gradient(setting)
        return scale * coordinates(tree, tree)

    return vector


def _sampled(objective: Objective, prepare: Callable[[Setting, Trajectories], Trajectories] | None = None) -> Sample:
    """The objective's component gradients on a batch, which `prepare` may falsify first."""

    def vector(setting: Setting, traj: Trajectories) -> jax.Array:
        traj = traj if prepare is None else prepare(setting, traj)
        return _of(component_gradients(setting.policy, setting.params, traj, objective))

    return vector


def _enumerated(objective: Objective, scale: float = 1.0) -> Exact:
    def vector(setting: Setting) -> jax.Array:
        return scale * _of(component_gradients(setting.policy, setting.params, setting.exact, objective))

    return vector


def _stop_round(traj: Trajectories) -> jax.Array:
    """i32[B]: tau - 1."""
    return jnp.max(jnp.where(traj.mask, traj.round, 0), axis=-1)


def _tilted(objective: Objective) -> Objective:
    """The objective with TILT times the coefficient on decisions (it must be linear in the log-probs)."""

    def wrong(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        return objective(jnp.where(traj.decision_mask, TILT * logp_BxS, logp_BxS), traj)

    return wrong


def _forced_stop_counted(setting: Setting, traj: Trajectories) -> Trajectories:
    """The stop of round T treated as a decision of pi_d."""
    L = setting.process.length
    forced_B = traj.blocks(traj.sample_mask, L)[:, -1, 0]
    last_S = jnp.arange(traj.tokens.shape[1]) == traj.tokens.shape[1] - 1
    wrong = traj.replace(decision_mask=traj.decision_mask | (forced_B[:, None] & last_S[None]))
    return setting.with_reference(wrong)


def _cost_left_out(setting: Setting, traj: Trajectories) -> Trajectories:
    return traj.replace(reward=traj.reward + setting.process.cost * _stop_round(traj).astype(traj.reward.dtype))


def _square_lengths(setting: Setting, traj: Trajectories, payoff_B: jax.Array) -> jax.Array:
    """f[B, 2]: g_c^T F_c^+ g_c for the component gradients of REINFORCE on each trajectory alone."""
    F_s, F_d = fisher(setting.policy, setting.params, setting.exact)

    def one(traj: Trajectories, payoff: jax.Array) -> jax.Array:
        alone = jax.tree.map(lambda x: x[None], traj).replace(
            reward=payoff[None], weight=jnp.ones((1,), payoff.dtype), exact=False
        )
        g = component_gradients(setting.policy, setting.params, alone, reinforce)
        return jnp.stack([energy(g.sample, F_s), energy(g.decision, F_d)])

    return jax.vmap(one)(traj, payoff_B)


def _mean_return(setting: Setting) -> jax.Array:
    return jnp.sum(setting.exact.weight * setting.exact.reward)


def _second_moments(setting: Setting, traj: Trajectories) -> jax.Array:
    return jnp.mean(_square_lengths(setting, traj, traj.reward - _mean_return(setting)), axis=0)


def _second_moments_without_baseline(setting: Setting, traj: Trajectories) -> jax.Array:
    return jnp.mean(_square_lengths(setting, traj, traj.reward), axis=0)


def _exact_second_moments(setting: Setting) -> jax.Array:
    law = setting.exact.replace(reward=setting.exact.reward - _mean_return(setting))
    found = signal_to_noise(setting.policy, setting.params, law, reinforce)
    return jnp.stack([found.moment_sample, found.moment_decision])


def _stated_second_moments(setting: Setting) -> jax.Array:
    return stated.whitened_moments(setting, setting.exact.reward - _mean_return(setting))


_BATCH_MEAN = partial(reinforce, baseline="batch_mean")
_GROUP_MEAN = partial(reinforce, baseline="group_mean")
_NORMALISED = partial(reinforce, baseline="group_normalised")
_KL_IN_REWARD = partial(reinforce, baseline="leave_one_out", reward_kl=BETA)
_KL_IN_LOSS = partial(reinforce, baseline="leave_one_out", token_kl=BETA, kl_estimator="k2")
_K1, _K2, _K3 = (partial(own_token_kl, estimator=name) for name in ("k1", "k2", "k3"))

_J = _closed(stated.return_gradient)


def _no_gradient(setting: Setting) -> jax.Array:
    return jnp.zeros_like(_J(setting))


def _regularised(setting: Setting) -> jax.Array:
    return _J(setting) - BETA * _closed(stated.trajectory_kl_gradient)(setting)


def _reverse(setting: Setting) -> Params:
    return stated.local_kl_gradient(setting, "reverse")


def _forward(setting: Setting) -> Params:
    return stated.local_kl_gradient(setting, "forward")


def _grpo_by_mean_length(setting: Setting) -> Params:
    return stated.grpo_gradient(setting, mean_length=True)


ESTIMATORS: tuple[Estimator, ...] = (
    Estimator(
        "REINFORCE",
        "T1",
        "[P]",
        "grad J",
        "binary",
        _sampled(reinforce),
        _enumerated(reinforce),
        _J,
        Wrong("forced stop counted as a decision", _sampled(reinforce, _forced_stop_counted)),
    ),
    Estimator(
        "REINFORCE, history and cost",
        "T1",
        "[P]",
        "grad J",
        "graded",
        _sampled(reinforce),
        _enumerated(reinforce),
        _J,
        Wrong("cost left out of the return", _sampled(reinforce, _cost_left_out)),
    ),
    Estimator(
        "leave-one-out",
        "T12",
        "[N]",
        "grad J",
        "binary",
        _sampled(rloo),
        _enumerated(rloo),
        _J,
        Wrong("baselines per turn, summed over the turns to go", _sampled(biased_per_turn)),
    ),
    Estimator(
        "leave-one-out, history and cost",
        "T12",
        "[N]",
        "grad J",
        "graded",
        _sampled(rloo),
        _enumerated(rloo),
        _J,
        Wrong(f"decision coefficient x {TILT}", _sampled(_tilted(rloo))),
    ),
    Estimator(
        "batch mean",
        "T12",
        "[N]",
        f"(B - 1)/B grad J, B = {BATCH}",
        "binary",
        _sampled(_BATCH_MEAN),
        _enumerated(_BATCH_MEAN, (BATCH - 1) / BATCH),
        _closed(stated.return_gradient, (BATCH - 1) / BATCH),
        Wrong("said to be unbiased", expected=_J),
    ),
    Estimator(
        "group mean",
        "T12",
        "[N]",
        f"(G - 1)/G grad J, G = {MEMBERS}",
        "position-wise",  # with equal groups it is (G - 1)/G of leave-one-out: on the same batches nothing new
        _sampled(_GROUP_MEAN),
        _enumerated(_GROUP_MEAN),
        _closed(stated.return_gradient, (MEMBERS - 1) / MEMBERS),
        Wrong("said to be unbiased", expected=_J),
    ),
    Estimator(
        "group normalised",
        "T12",
        "[N]",
        "sum_q mu c_G(p) grad p",
        "binary",
        _sampled(_NORMALISED),
        _enumerated(_NORMALISED),
        _closed(stated.group_normalised_gradient),
        Wrong("std said to be 1", expected=_closed(stated.return_gradient, (MEMBERS - 1) / MEMBERS)),
    ),
    Estimator(
        "GRPO",
        "T2",
        "[P/R]",
        "E[c_G (R - p)/T_i score]",
        "binary",
        _sampled(grpo),
        _enumerated(grpo),
        _closed(stated.grpo_gradient),
        Wrong("E[T_i] for T_i", expected=_closed(_grpo_by_mean_length)),
    ),
    Estimator(
        "k1 in the loss",
        "T6",
        "[P/R]",
        "0",
        "binary",
        _sampled(_K1),
        _enumerated(_K1),
        _no_gradient,
        Wrong("forced stop counted as a decision", _sampled(_K1, _forced_stop_counted)),
        direction=_closed(_reverse),
    ),
    Estimator(
        "k2 in the loss",
        "T6",
        "[P/R]",
        "reverse KL per prefix",
        "binary",
        _sampled(_K2),
        _enumerated(_K2),
        _closed(_reverse, -1.0),
        Wrong("k1 for k2", _sampled(_K1)),
    ),
    Estimator(
        "k3 in the loss",
        "T6",
        "[P/R]",
        "forward KL per prefix",
        "binary",
        _sampled(_K3),
        _enumerated(_K3),
        _closed(_forward, -1.0),
        Wrong("k2 for k3", _sampled(_K2)),
    ),
    Estimator(
        f"KL in the reward, beta = {BETA}",
        "T6",
        "[P/R]",
        "grad (J - beta KL(P || P_ref))",
        "graded",
        _sampled(_KL_IN_REWARD),
        _enumerated(_KL_IN_REWARD),
        _regularised,
        Wrong("k2 in the loss for it", _sampled(_KL_IN_LOSS)),
    ),
    Estimator(
        "one trajectory, w = R - J",
        "T14",
        "[N]",
        "whitened second moments of g_s, g_d",
        "position-wise",
        _second_moments,
        _exact_second_moments,
        _stated_second_moments,
        Wrong("w = R", _second_moments_without_baseline),
        decider=1,
    ),
)

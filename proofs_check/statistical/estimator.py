"""What a sampled estimator is: the library's value on a batch, its exact mean, the statement, a wrong variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsjax.attribution import ComponentGradients, component_gradients
from dsjax.objectives import Objective
from dsjax.policies import Params
from dsjax.trajectories import Trajectories
from proofs_check.statement import STATEMENTS
from proofs_check.statistical.settings import Setting

Sample = Callable[[Setting, Trajectories], jax.Array]  # f[p] from one sampled batch
Exact = Callable[[Setting], jax.Array]  # f[p]


class Wrong(NamedTuple):
    """A wrong variant: another estimator for the same expectation, or another expectation for the same estimator."""

    name: str
    sample: Sample | None = None
    expected: Exact | None = None


@dataclass(frozen=True)
class Estimator:
    """One row of the report; those of a theorem are `ESTIMATORS` of its folder's `statistical`.

    Attributes:
      name: what is sampled.
      theorem: statement that gives its expectation.
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
    claim: str
    setting: str
    sample: Sample
    expected: Exact
    stated: Exact
    control: Wrong
    direction: Exact | None = None
    decider: int | None = None

    @property
    def provenance(self) -> str:
        """Tag of the statement."""
        return STATEMENTS[self.theorem].provenance


def coordinates(sample: Params, decision: Params) -> jax.Array:
    """f[p]: each component's own table, without the last logit of a context (a softmax gradient sums to 0 there).

    A gradient that reaches the wrong component's table is not seen as its own.
    """
    tables = (sample["sample"], decision["decision"])
    return jnp.concatenate([x[..., :-1].reshape(-1) for x in tables])


def _of(gradients: ComponentGradients) -> jax.Array:
    return coordinates(gradients.sample, gradients.decision)


def closed(gradient: Callable[[Setting], Params], scale: float = 1.0) -> Exact:
    """A closed form of the whole gradient, in the coordinates of a sample."""

    def vector(setting: Setting) -> jax.Array:
        tree = gradient(setting)
        return scale * coordinates(tree, tree)

    return vector


def sampled(objective: Objective, prepare: Callable[[Setting, Trajectories], Trajectories] | None = None) -> Sample:
    """The objective's component gradients on a batch, which `prepare` may falsify first."""

    def vector(setting: Setting, traj: Trajectories) -> jax.Array:
        traj = traj if prepare is None else prepare(setting, traj)
        return _of(component_gradients(setting.policy, setting.params, traj, objective))

    return vector


def enumerated(objective: Objective, scale: float = 1.0) -> Exact:
    """The objective's component gradients on the exact law."""

    def vector(setting: Setting) -> jax.Array:
        return scale * _of(component_gradients(setting.policy, setting.params, setting.exact, objective))

    return vector


def forced_stop_counted(setting: Setting, traj: Trajectories) -> Trajectories:
    """Wrong: the stop of round T treated as a decision of pi_d."""
    L = setting.process.length
    forced_B = traj.blocks(traj.sample_mask, L)[:, -1, 0]
    last_S = jnp.arange(traj.tokens.shape[1]) == traj.tokens.shape[1] - 1
    wrong = traj.replace(decision_mask=traj.decision_mask | (forced_B[:, None] & last_S[None]))
    return setting.with_reference(wrong)

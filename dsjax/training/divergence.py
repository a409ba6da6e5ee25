"""What to say, and to keep, when loss or gradient is not finite: the update, the component and its batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.attribution import component_gradients
from dsjax.io import write_arrays
from dsjax.objectives import Objective
from dsjax.objectives.returns import mean_of
from dsjax.training.critic import critic_loss
from dsjax.training.step import TrainState
from dsjax.trajectories import Trajectories

FILE = "bad_batch.npz"


class DivergedError(FloatingPointError):
    """Loss, gradient or parameters are not finite; says of which update, and what."""


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """bool[]: no NaN and no infinity in any float of the tree."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))


def save_batch(path: Path, traj: Trajectories, step: int) -> None:
    """Write the arrays of a batch as .npz without pickles, bfloat16 as float32; `update` is its update."""
    arrays: dict[str, Any] = {"update": np.asarray(step)}
    for field in dataclasses.fields(traj):
        value = getattr(traj, field.name)
        if isinstance(value, jax.Array):
            wide = value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value
            arrays[field.name] = np.asarray(wide)
    write_arrays(path, arrays)


def not_finite(
    policy: Any,
    state: TrainState,
    traj: Trajectories,
    objective: Objective,
    value_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Which of loss, gradient of the sampler and gradient of the decider are not finite on this batch.

    With the options of a critic's loss, its gradient too.
    """
    options = dict(value_options or {})

    @jax.jit
    def finite(state: TrainState, traj: Trajectories) -> dict[str, jax.Array]:
        g = component_gradients(policy, state.params, traj, objective)
        named = {"loss": g.loss, "gradient of sample": g.sample, "gradient of decision": g.decision}
        if value_options is not None:
            value_gradient = jax.grad(lambda p: mean_of(critic_loss(policy, p, traj, **options)))(state.params)
            named["gradient of critic"] = value_gradient
        return {name: all_finite(tree) for name, tree in named.items()}

    return [name for name, ok in finite(state, traj).items() if not ok]

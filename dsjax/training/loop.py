"""The training loop on the host: chunks of compiled steps, metrics as rows, measurements at fixed points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dsjax.errors import require
from dsjax.objectives import Objective
from dsjax.policies.base import Params, Policy
from dsjax.training.sharding import ONE_DEVICE, Layout
from dsjax.training.sources import Setting, Source
from dsjax.training.step import TrainState, make_gradient_measure, make_train_steps

Row = dict[str, Any]
LONGEST_CHUNK = 10


class DivergedError(FloatingPointError):
    """Loss or gradient is not finite; names the step and the metric."""


def adam(learning_rate: optax.ScalarOrSchedule, clip_norm: float) -> optax.GradientTransformation:
    """Adam after clipping the gradient to a global norm; a schedule gives the step size of each update."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(learning_rate))


def chunk_size(interval: int) -> int:
    """The largest divisor of `interval` that keeps a dispatch short."""
    return max(d for d in range(1, LONGEST_CHUNK + 1) if interval % d == 0)


def train(
    setting: Setting,
    policy: Policy,
    params: Params,
    *,
    base_params: Params,
    source: Source,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    updates: int,
    points: int,
    problem_key: jax.Array,
    draw_key: jax.Array,
    evaluate: Callable[[Params], list[Row]],
    record: Callable[[Row], None],
    advance: Callable[[int], None],
    component: str = "both",
    layout: Layout = ONE_DEVICE,
) -> Params:
    """Train, and measure at `points` + 1 equally spaced updates, the first and the last included.

    Args:
      setting: what all arms share.
      policy: the policy.
      params: start.
      base_params: the frozen base (reference policy, and the source of its answers).
      source: of trajectories.
      objective: the loss.
      optimizer: the optimiser.
      updates: number of updates, a multiple of `points`.
      points: measurements after the first.
      problem_key: stream of problems.
      draw_key: stream of samples.
      evaluate: rows of measures of given parameters.
      record: takes each row: {"kind": "train" | "gradient" | "evaluation", "step", ..}.
      advance: called with the number of updates just done.
      component: see `make_train_steps`.
      layout: see `make_train_steps`.

    Raises:
      DivergedError: if loss or gradient norm is not finite.
    """
    require(updates % points == 0, "updates", updates, f"a multiple of {points}, the number of measurements")
    interval = updates // points
    chunk = chunk_size(interval)
    steps = make_train_steps(setting, policy, source, objective, optimizer, chunk, component, layout)
    measure = make_gradient_measure(setting, policy, source, objective, layout)
    state = layout.place(TrainState.create(jax.tree.map(jax.numpy.copy, params), optimizer, problem_key, draw_key))
    base_params = layout.place(base_params)

    def measure_at(step: int) -> None:
        values = {k: float(v) for k, v in measure(state, base_params).items()}
        record({"kind": "gradient", "step": step, **{k: v if np.isfinite(v) else None for k, v in values.items()}})
        for row in evaluate(state.params):
            record({"kind": "evaluation", "step": step, **row})

    measure_at(0)
    for first in range(0, updates, chunk):
        state, metrics = steps(state, base_params)
        host = {k: np.asarray(v) for k, v in metrics.items()}
        for name in ("loss", "gradient_norm"):
            bad = np.flatnonzero(~np.isfinite(host[name]))
            if bad.size:
                raise DivergedError(f"{name} is {host[name][bad[0]]} at update {first + int(bad[0])}")
        record({"kind": "train", "step": first + chunk, **{k: float(v.mean()) for k, v in host.items()}})
        advance(chunk)
        if (first + chunk) % interval == 0:
            measure_at(first + chunk)
    return state.params

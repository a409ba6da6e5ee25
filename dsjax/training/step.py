"""The compiled training step: data, log-probs, component gradients, update; k steps a dispatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dsjax.attribution import ComponentGradients, component_gradients, euclidean, inner, pull_back, ratio
from dsjax.objectives import Objective
from dsjax.objectives.returns import mean_of
from dsjax.policies.base import Params, Policy
from dsjax.training.critic import critic_loss
from dsjax.training.sharding import ONE_DEVICE, Layout
from dsjax.training.sources import Draw, Setting
from dsjax.trajectories import Trajectories

FINITE_SET = 2**31 - 1  # no update has this number


def adam(learning_rate: optax.ScalarOrSchedule, clip_norm: float) -> optax.GradientTransformation:
    """Adam after clipping the gradient to a global norm; a schedule gives the step size of each update."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(learning_rate))


class TrainState(struct.PyTreeNode):
    """All that changes during training."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array  # i32[] updates done
    problem_key: jax.Array  # the stream of problems: equal for all arms of a run
    draw_key: jax.Array  # the stream of samples

    @classmethod
    def create(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        problem_key: jax.Array,
        draw_key: jax.Array,
    ) -> TrainState:
        """State before the first update."""
        return cls(params, optimizer.init(params), jnp.zeros((), jnp.int32), problem_key, draw_key)


def draw(
    setting: Setting,
    policy: Policy,
    source: Draw,
    state: TrainState,
    base_params: Params,
    layout: Layout = ONE_DEVICE,
) -> Trajectories:
    """The trajectories of update `state.step`: a function of the two keys, the step and the parameters alone."""
    set_key = jax.random.fold_in(state.problem_key, FINITE_SET)
    problems = setting.problems(jax.random.fold_in(state.problem_key, state.step), set_key)
    key = jax.random.fold_in(state.draw_key, state.step)
    traj = source(setting, policy, state.params, base_params, layout.split_batch(problems), key)
    return layout.split_batch(traj)


def computed(setting: Setting, policy: Policy, layout: Layout) -> Policy:
    """The policy as the layout computes it on rows of this setting."""
    return layout.policy(policy, setting.task.prompt_length + setting.rounds * (policy.length + 1))


def make_train_steps(
    setting: Setting,
    policy: Policy,
    source: Draw,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    steps: int,
    component: str = "both",
    layout: Layout = ONE_DEVICE,
    value_weight: float = 0.0,
    value_options: Mapping[str, Any] | None = None,
    frozen: bool = False,
) -> Callable[[TrainState, Params], tuple[TrainState, dict[str, jax.Array]]]:
    """A compiled function that makes `steps` updates and returns the state and each metric as f[steps].

    The state that it is given is used up (donated).

    Args:
      setting: what all arms share.
      policy: the policy.
      source: where trajectories come from.
      objective: the loss.
      optimizer: an optax transformation.
      steps: updates per call.
      component: `both`, or the only component whose gradient is used (`sample`, `decision`).
      layout: devices, and how much of the batch is in flight.
      value_weight: of the critic's loss next to the objective's; above 0 for a policy with a critic and on-policy data.
      value_options: of the critic's loss; discount, gae_lambda and reward_kl are those of the objective.
      frozen: whether only the parameters learn that `pi_d` alone reads, so that the sampler stays as it is.
    """
    in_parts = computed(setting, policy, layout)

    def update(state: TrainState, base_params: Params) -> tuple[TrainState, dict[str, jax.Array]]:
        whole = layout.gathered(state.params)
        traj = draw(setting, in_parts, source, state.replace(params=whole), layout.gathered(base_params), layout)
        loss, (ascent,) = pull_back(in_parts, whole, traj, objective, (component,))
        gradient = jax.tree.map(jnp.negative, ascent)
        if value_weight > 0:
            value_gradient = jax.grad(lambda p: mean_of(critic_loss(in_parts, p, traj, **(value_options or {}))))(whole)
            gradient = jax.tree.map(lambda g, v: g + value_weight * v, gradient, value_gradient)
        if frozen:  # Adam makes no step where the gradient has always been 0
            parts = policy.decider_parts(whole)
            gradient = {k: v if k in parts else jax.tree.map(jnp.zeros_like, v) for k, v in gradient.items()}
        gradient = layout.constrain(gradient)
        # Optax raises a float to an integer step count, which strict dtype promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "gradient_norm": jnp.sqrt(inner(gradient, gradient)),
            "reward": jnp.sum(traj.weight * traj.reward),
            "tokens_trained": jnp.sum(traj.mask).astype(jnp.float32),
            "decision_tokens": jnp.sum(traj.decision_mask).astype(jnp.float32),
        }
        params = optax.apply_updates(state.params, updates)
        return layout.constrain(state.replace(params=params, opt_state=opt_state, step=state.step + 1)), metrics

    def run(state: TrainState, base_params: Params) -> tuple[TrainState, dict[str, jax.Array]]:
        return jax.lax.scan(lambda s, _: update(s, base_params), state, None, length=steps)

    return jax.jit(run, donate_argnums=0)


def _parts(params: Params) -> dict[str, list[Any]]:
    """Leaves of a parameter tree by part: trunk, sample_head, decide_head; of another tree than ours all is trunk."""
    parts: dict[str, list[Any]] = {}
    for name, sub in params.items() if isinstance(params, Mapping) else [("", params)]:
        parts.setdefault(name if str(name).endswith("_head") else "trunk", []).extend(jax.tree.leaves(sub))
    return parts


def make_gradient_measure(
    setting: Setting,
    policy: Policy,
    source: Draw,
    objective: Objective,
    layout: Layout = ONE_DEVICE,
) -> Callable[[TrainState, Params], dict[str, jax.Array]]:
    """A compiled measurement of the component gradients on two independent batches.

    `share` is the decisions' part of |G|^2 of one batch (signal and noise together). `signal_*` = <G_1, G_2> of two
    independent batches: an unbiased estimate of |E G|^2, which may be negative where noise dominates; `noise_*` = the
    mean squared norm of one batch minus it. All Euclidean, in parameter space. Layout as in `make_train_steps`.
    """
    in_parts = computed(setting, policy, layout)

    def measure(state: TrainState, base_params: Params) -> dict[str, jax.Array]:
        def half(index: jax.Array) -> ComponentGradients:
            keys = {
                name: jax.random.fold_in(getattr(state, name), 2**30 + index) for name in ("problem_key", "draw_key")
            }
            traj = draw(setting, in_parts, source, state.replace(**keys), base_params, layout)
            return component_gradients(in_parts, state.params, traj, objective)

        both = jax.lax.map(half, jnp.arange(2))  # traced once
        one, two = (jax.tree.map(lambda x, i=i: x[i], both) for i in range(2))
        out = euclidean(one)
        out["share"] = out.pop("euclidean_share")
        for name in ("sample", "decision"):
            a, b = getattr(one, name), getattr(two, name)
            signal, power = inner(a, b), 0.5 * (inner(a, a) + inner(b, b))
            out |= {f"signal_{name}": signal, f"noise_{name}": power - signal}
            for part, leaves in _parts(a).items():
                out[f"norm_{name}_{part}"] = jnp.sqrt(inner(leaves, leaves))
        whole = out["signal_sample"] + out["signal_decision"]
        positive = (out["signal_sample"] > 0) & (out["signal_decision"] > 0)
        out["signal_share"] = jnp.where(positive, ratio(out["signal_decision"], whole), jnp.nan)
        return out

    return jax.jit(measure)

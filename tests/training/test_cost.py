"""The cost model against what XLA counts in the compiled programs."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.objectives import resolve
from dsjax.policies.rollout import sample
from dsjax.policies.transformer import TransformerPolicy
from dsjax.training import cost
from dsjax.training.bench import RandomDigits
from dsjax.training.sharding import Layout, data_mesh
from dsjax.training.sources import SOURCES, Setting
from dsjax.training.step import TrainState, adam, make_train_steps

POLICY = TransformerPolicy(
    prompt_vocabulary=12, prompt_length=6, vocabulary=10, length=9, rounds=1, layers=2, width=128, heads=4
)
ROWS = 8
# Norms, softmaxes, activations and the optimiser are left out: at this width some percent of the products.
LEFT_OUT = 0.15


def flops(compiled: Any) -> float:
    return compiled.cost_analysis()["flops"]


def compiled_step(layout: Layout):
    task: Any = RandomDigits(6, 9)
    setting = Setting(task, 1, ROWS, 1)
    optimizer = adam(1e-4, 1.0)
    state = layout.place(
        TrainState.create(POLICY.init(jax.random.key(0)), optimizer, jax.random.key(1), jax.random.key(2))
    )
    base = layout.place(POLICY.init(jax.random.key(0)))
    steps: Any = make_train_steps(setting, POLICY, SOURCES["success"], resolve("sft"), optimizer, 1, layout=layout)
    return steps.lower(state, base).compile()


def test_flops_of_a_forward_pass_and_of_a_training_step():
    params = jax.eval_shape(POLICY.init, jax.random.key(0))
    prompt, answers = jnp.zeros((ROWS, 6), jnp.int32), jnp.zeros((ROWS, 1, 9), jnp.int32)
    forward = flops(jax.jit(POLICY.log_dists).lower(params, prompt, answers).compile())
    counted = cost.forward_flops(POLICY, 1, ROWS)
    assert counted <= forward <= (1 + LEFT_OUT) * counted
    step = flops(compiled_step(Layout(microbatch=0)))
    counted = cost.step_cost(POLICY, Layout(microbatch=0), "sft", ROWS, 1).flops
    assert (1 - LEFT_OUT) * counted <= step <= (1 + LEFT_OUT) * counted


def test_parts_cost_one_more_forward_pass_where_coefficients_depend_on_log_probs():
    """tests/training/test_sharding.py counts the products of the compiled programs."""
    whole, parts = Layout(microbatch=0), Layout(microbatch=2)
    of = {
        (layout.microbatch, linear): cost.step_cost(POLICY, layout, "sft", ROWS, 1, linear)
        for layout in (whole, parts)
        for linear in (True, False)
    }
    assert of[2, True].flops == of[0, True].flops == of[0, False].flops
    assert of[2, False].flops - of[0, False].flops == cost.forward_flops(POLICY, 1, ROWS)
    assert of[2, True].activation_bytes * 4 == of[0, True].activation_bytes


def test_counts_of_parameters_and_weights():
    params = POLICY.init(jax.random.key(0))
    assert cost.parameters(POLICY) == sum(x.size for x in jax.tree.leaves(params))
    assert cost.block_weights(POLICY) == 12 * 2 * 128**2


def test_rollouts_feed_every_new_token():
    reward = cost.step_cost(POLICY, Layout(), "reward", ROWS, 1)
    drawn = sample(POLICY, POLICY.init(jax.random.key(0)), jnp.zeros((ROWS, 6), jnp.int32), jax.random.key(0), rounds=1)
    assert reward.sampled_tokens == drawn.answers.size + drawn.decisions.size  # one fed for each one drawn


@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_network_carries_the_gradient(sharding: Any):
    """The collectives of the compiled program move about what the count says, on two devices."""
    layout = Layout(data_mesh(2), sharding, 0)
    text = re.sub(r"/\*.*?\*/", "", compiled_step(layout).as_text())
    moved = 0.0
    for shapes, kind in re.findall(r"= \(?([^=]*?)\)? (all-reduce|all-gather|reduce-scatter)(?:-start)?\(", text):
        sizes = [
            int(np.prod([int(n) for n in dims.split(",") if n])) for dims in re.findall(r"f32\[([\d,]*)\]", shapes)
        ]
        moved += 4 * sum(sizes) * {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 2}[kind] * (2 - 1) / 2
    counted = cost.step_cost(POLICY, layout, "sft", ROWS, 1).network_bytes
    assert counted > 0
    assert 0.5 * counted <= moved <= 2 * counted
    assert cost.step_cost(POLICY, Layout(), "sft", ROWS, 1).network_bytes == 0

"""One step on any layout: devices, processes, sharded parameters, parts of the batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsjax.attribution import pull_back
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.policies import log_probs
from dsjax.policies.microbatch import InParts, part_size
from dsjax.policies.rollout import sample, to_trajectories
from dsjax.policies.transformer import TransformerPolicy
from dsjax.tasks import Addition
from dsjax.training.sharding import Layout, data_mesh
from dsjax.training.sources import SOURCES, Setting
from dsjax.training.step import TrainState, draw

SCRIPT = Path(__file__).with_name("scaling_run.py")
# A float32 sum of n terms in another order differs by at most n eps of the sum of magnitudes. The longest sum here, a
# gradient entry over 64 rows of 14 tokens, has 896 terms of either sign; after clipping nothing amplifies it, and three
# steps of 0.01 add up. Observed are a few eps.
TOLERANCE = 896 * float(np.finfo(np.float32).eps)

TASK = Addition(2)
POLICY = TransformerPolicy.for_task(TASK, 2, layers=1, width=8, heads=2)
SETTING = Setting(TASK, rounds=2, prompts=4, group=4, cost=0.5)


def launched(out: Path, devices: int, *arguments: str) -> subprocess.Popen:
    """The script in a process that has this many devices."""
    of_tests = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    flags = " ".join([f"--xla_force_host_platform_device_count={devices}", *of_tests])
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, str(SCRIPT), str(out), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def result(out: Path, *processes: subprocess.Popen) -> dict[str, np.ndarray]:
    for process in processes:
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0, printed
    return dict(np.load(out))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("scaling") / "one.npz"
    return result(out, launched(out, 1))


def assert_same_run(got, want):
    """Parameters, gradient norms and rewards of three updates; whitened losses are sums near zero."""
    for name, value in want.items():
        if name != "split":
            scale = max(1.0, float(np.abs(value).max()))
            assert np.abs(got[name] - value).max() <= TOLERANCE * scale, name


@pytest.mark.parametrize(
    ("devices", "arguments", "split"),
    [
        (2, (), False),
        (8, ("--parameters", "fsdp", "--microbatch", "4"), True),
    ],
)
def test_any_number_of_devices_computes_the_same(tmp_path, one_device, devices, arguments, split):
    out = tmp_path / "run.npz"
    got = result(out, launched(out, devices, "--devices", str(devices), *arguments))
    assert_same_run(got, one_device)
    assert any("data" in spec for spec in got["split"]) == split
    # Three updates are further from each other than the tolerance: a step that did nothing would be seen.
    moved = np.diff(one_device["gradient_norm"])
    assert np.abs(moved).min() > 10 * TOLERANCE


def test_two_processes_compute_the_same(tmp_path, one_device):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    out = tmp_path / "run.npz"
    common = ("--devices", "2", "--processes", "2", "--port", port)
    pair = [launched(out, 1, *common, "--process", str(i)) for i in range(2)]
    assert_same_run(result(out, *pair), one_device)


def whole_batch(x64) -> tuple[Any, Any]:
    """(params, trajectories) in float64."""
    with jax.enable_x64(False):  # the network initialises in float32
        params = POLICY.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    prompt = TASK.training_problems(jax.random.key(1), 12).prompt
    traj = to_trajectories(prompt, sample(POLICY, params, prompt, jax.random.key(2), rounds=2), jnp.zeros((12, 2)))
    return params, traj


def test_parts_have_the_same_values_and_gradients(x64):
    """Through `jax.vjp`, and with the gradient of each part taken as soon as it is computed."""
    params, traj = whole_batch(x64)
    seeds = tuple(jax.random.normal(jax.random.key(i), traj.tokens.shape) for i in range(2))

    def by_jax(policy, params):
        logp, vjp = jax.vjp(lambda p: log_probs(policy, p, traj), params)
        return logp, tuple(vjp(seed)[0] for seed in seeds)

    def by_parts(policy, params):
        logp, pull = policy.log_probs_vjp(params, traj)
        return pull(seeds), logp

    def assert_close(got, want):
        # Sums over 12 x 8 tokens in another order, of terms of order one.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), got, want)

    want = jax.jit(by_jax, static_argnums=0)(POLICY, params)
    over_devices = InParts(POLICY, 2, data_mesh(2))
    assert_close(jax.jit(by_jax, static_argnums=0)(over_devices, params), want)
    for policy in (InParts(POLICY, 5), over_devices, InParts(POLICY, 0, data_mesh(2))):
        assert_close(jax.jit(by_parts, static_argnums=0)(policy, params), (want, want[0]))


def test_a_linear_objective_needs_no_first_pass():
    """The products of the compiled program: one forward pass less where no coefficient depends on the log-probs."""
    parts = InParts(POLICY, 4)
    params = POLICY.init(jax.random.key(0))
    traj = jax.eval_shape(lambda: draw(SETTING, POLICY, SOURCES["on-policy"], some_state(0, optax.sgd(0.1)), params))

    def products(function: Any) -> int:
        text = jax.jit(function).lower(params, traj).compile().as_text()
        assert text is not None
        return text.count(" dot(")

    def of_gradient(objective: str) -> int:
        return products(lambda p, t: pull_back(parts, p, t, resolve(objective), ("both",)))

    forward, linear = products(lambda p, t: log_probs(parts, p, t)), of_gradient("sft")
    assert 0 < forward < linear
    assert [of_gradient(name) for name in ("reinforce", "rloo")] == [linear, linear]
    for name in ("dft", "grpo"):
        # What does not depend on the part, such as embeddings of positions, may be computed once for both passes.
        assert forward - 2 <= of_gradient(name) - linear <= forward, name


def test_part_sizes_divide():
    assert [part_size(12, m) for m in (1, 5, 6, 7, 100)] == [1, 4, 6, 6, 12]
    assert part_size(7, 4) == 1


def test_a_batch_that_cannot_be_split_is_computed_whole():
    params = POLICY.init(jax.random.key(0))
    prompt = jnp.zeros((3, TASK.prompt_length), jnp.int32)
    answers = jnp.zeros((3, 1, TASK.length), jnp.int32)
    got = InParts(POLICY, 2, data_mesh(2)).log_dists(params, prompt, answers)
    jax.tree.map(np.testing.assert_array_equal, got, POLICY.log_dists(params, prompt, answers))


def some_state(seed: int, optimizer) -> TrainState:
    keys = jax.random.split(jax.random.key(seed), 3)
    return TrainState.create(POLICY.init(keys[0]), optimizer, keys[1], keys[2])


def test_the_batch_lies_split_over_the_devices():
    layout = Layout(data_mesh(2))
    optimizer = optax.sgd(0.1)
    state = layout.place(some_state(0, optimizer))
    traj = jax.jit(lambda s: draw(SETTING, POLICY, SOURCES["on-policy"], s, s.params, layout))(state)
    assert traj.tokens.sharding.shard_shape(traj.tokens.shape)[0] == traj.tokens.shape[0] // 2
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))


def test_fsdp_halves_what_a_device_holds():
    layout = Layout(data_mesh(2), "fsdp")
    tree = {"w": jnp.zeros((64, 48)), "b": jnp.zeros((48,)), "key": jax.random.key(0)}
    placed = layout.place(tree)
    assert placed["w"].sharding.shard_shape((64, 48)) == (32, 48)
    assert placed["b"].sharding.is_fully_replicated
    assert placed["key"].sharding.is_fully_replicated


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: data_mesh(3), "devices"),
        (lambda: data_mesh(0), "devices"),
        (lambda: Layout(parameters="zero"), "parameters"),  # type: ignore[arg-type]
        (lambda: Layout(microbatch=-1), "microbatch"),
    ],
)
def test_impossible_layouts_are_refused(make, field):
    with pytest.raises(InputError, match=field):
        make()

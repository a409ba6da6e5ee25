"""Every objective over two devices: sums and counts per device, added up, are the loss and gradient of one device."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.objectives import Objective, resolve
from dsjax.objectives.advantages import SEQUENCE_ADVANTAGES, advantage
from dsjax.objectives.kl import token_rewards_with_kl
from dsjax.trajectories import Trajectories
from tests.objectives.reference import PRESETS, batch, quick_jit
from tests.objectives.test_objectives import BATCH_STATISTICS, EXACT, VARIANTS, neighbours

DEVICES, GROUPS, PARAMETERS = 2, 2, 3
OVER_DEVICES = jax.P("data")


class Step(NamedTuple):
    """What devices exchange, and each token's own part."""

    total: jax.Array  # f[]
    count: jax.Array  # f[]
    slope: jax.Array  # f[P]  d total / d theta
    raw: jax.Array  # f[B, S]  d total / d logp


def whole_groups() -> tuple[jax.Array, Trajectories, jax.Array]:
    """(logp, batch, features): two groups of four, one a device, with unequal numbers of tokens.

    Log-probs move with shared parameters theta as logp + features theta, so gradients must be added up over devices.
    """
    logp, traj = batch()
    group = jnp.repeat(jnp.arange(GROUPS, dtype=jnp.int32), 4)
    tokens = np.asarray(traj.mask).sum(-1).reshape(DEVICES, 4).sum(-1)
    assert tokens[0] != tokens[1]
    features = jnp.asarray(np.random.default_rng(4).normal(size=(*logp.shape, PARAMETERS)))
    return logp, traj.replace(group=group, num_groups=GROUPS), features


def step(f: Objective, theta: jax.Array, logp: jax.Array, features: jax.Array, traj: Trajectories) -> Step:
    (total, count), pull = jax.vjp(lambda x: f(x, traj), logp + features @ theta)
    raw = pull((jnp.ones_like(total), jnp.zeros_like(count)))[0]
    return Step(total, count, jnp.einsum("bs,bsp->p", raw, features), raw)


@quick_jit
def loss_and_gradients(s: Step) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Divided once, after everything is added up."""
    return s.total / s.count, s.slope / s.count, s.raw / s.count


def one_device(objectives: dict[str, Objective]) -> dict[str, Step]:
    """All of them in one program: compiling costs by the program more than by the objective."""
    run = quick_jit(lambda theta, x, more, t: {name: step(f, theta, x, more, t) for name, f in objectives.items()})
    logp, traj, features = whole_groups()
    return run(jnp.zeros(PARAMETERS), logp, features, traj)


def per_device(objectives: dict[str, Any], rows: dict[str, jax.Array] | None = None) -> dict[str, Step]:
    """Each on the rows of each device, sums added up over the mesh; with its own `rows` as third argument, if any."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(jax.P(), OVER_DEVICES),
        out_specs=(jax.P(), OVER_DEVICES),
    )
    def run(theta, data):
        logp, traj, features, mine = data
        # A device counts its own groups from 0, so that their number fits its rows.
        first = jax.lax.axis_index("data").astype(jnp.int32) * (GROUPS // DEVICES)
        traj = traj.replace(group=traj.group - first, num_groups=GROUPS // DEVICES)
        given = {name: (mine[name],) if name in mine else () for name in objectives}
        out = {
            name: step(lambda x, t, f=f, more=given[name]: f(x, t, *more), theta, logp, features, traj)
            for name, f in objectives.items()
        }
        sums = {name: (s.total, s.count, s.slope) for name, s in out.items()}
        return jax.lax.psum(sums, "data"), {name: s.raw for name, s in out.items()}

    sums, raw = quick_jit(run)(jnp.zeros(PARAMETERS), (*whole_groups(), rows or {}))
    return {name: Step(total, count, slope, raw[name]) for name, (total, count, slope) in sums.items()}


def agree(a: Step, b: Step) -> None:
    # Two orders of adding up some 50 terms of order 1, features included: a few tens of eps.
    for x, y in zip((*a, *loss_and_gradients(a)), (*b, *loss_and_gradients(b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=EXACT, atol=EXACT)


@functools.lru_cache
def both(names: tuple[str, ...]) -> tuple[dict[str, Step], dict[str, Step]]:
    objectives = {name: resolve(*VARIANTS[name]) for name in names}
    return one_device(objectives), per_device(objectives)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in BATCH_STATISTICS])
def test_devices_combine_as_sums_and_counts(x64, name):
    whole, combined = (found[name] for found in both(neighbours(name)))
    agree(whole, combined)
    assert np.abs(np.asarray(whole.slope)).max() > 1e-3


def test_the_mean_of_means_is_another_loss(x64):
    """Control: dividing on each device, and averaging, weights the tokens of the shorter batch more."""
    f = resolve("sft")
    logp, traj, features = whole_groups()
    losses = [
        step(f, jnp.zeros(PARAMETERS), logp[rows], features[rows], jax.tree.map(lambda x: x[rows], traj))  # noqa: B023
        for rows in (slice(0, 4), slice(4, 8))
    ]
    means = np.mean([float(s.total / s.count) for s in losses])
    whole = one_device({"sft": f})["sft"]
    assert abs(means - float(whole.total / whole.count)) > 1e-3


SETTINGS = ("whiten", "discount", "gae_lambda", "epsilon", "std_of", "ddof")
ADVANTAGE_OPTIONS = ("advantage", "baseline", "reward_kl", *SETTINGS)
# In this batch no group is degenerate, so that the factor of `gpg` is 1 on every device.
SHARED = [name for name in BATCH_STATISTICS if name != "gpg"]


def advantages_of(name: str, traj: Trajectories) -> jax.Array:
    """The advantages of a variant on a whole batch."""
    kind, options = VARIANTS[name]
    given = {**PRESETS[kind], **options}
    which = given["baseline"] if "baseline" in given else given["advantage"]
    beta = given.get("reward_kl", 0.0)
    reward = token_rewards_with_kl(traj, beta)
    if which in SEQUENCE_ADVANTAGES:
        reward = reward.sum(-1)
    settings = {k: given[k] for k in SETTINGS if k in given}
    return advantage(which, reward, traj, **settings)


@pytest.fixture(scope="module")
def statistics() -> tuple[dict[str, Step], dict[str, Step], dict[str, Step]]:
    """On one device; over devices with the advantages of the whole batch; over devices with those of each device."""
    with jax.enable_x64(True):
        traj = whole_groups()[1]
        A = quick_jit(lambda t: {name: advantages_of(name, t) for name in SHARED})(traj)
        objectives = {name: resolve(*VARIANTS[name]) for name in SHARED}
        given = {name: {**PRESETS[VARIANTS[name][0]], **VARIANTS[name][1]} for name in SHARED}
        rest = {name: {k: v for k, v in o.items() if k not in ADVANTAGE_OPTIONS} for name, o in given.items()}
        shared = {
            name: lambda x, t, mine, o=o: resolve("surrogate", {**o, "advantage": mine})(x, t)
            for name, o in rest.items()
        }
        return one_device(objectives), per_device(shared, A), per_device(objectives)


@pytest.mark.parametrize("name", SHARED)
def test_statistics_of_the_batch_are_shared_as_advantages(x64, statistics, name):
    """Computed once on the whole batch and cut with the rows they combine exactly; on each device alone they do not."""
    whole, shared, naive = (found[name] for found in statistics)
    agree(whole, shared)
    assert np.abs(np.asarray(naive.slope) - np.asarray(whole.slope)).max() > 1e-3

"""Work of `test_run` and `test_processes` for processes of their own: small, because they are started often."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import optax
from orbax.checkpoint import v1  # noqa: F401  loaded once, in the server that the processes are forked from

import dsjax.cli.main
import dsjax.cli.train
import dsjax.figures
import dsjax.training.run
from dsjax.objectives import resolve
from dsjax.training.checkpoints import Checkpoints
from tests.programs import same_gradient


def _cached() -> None:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def command(arguments: list[str], errors: str) -> None:
    """The command line, with its error messages in a file."""
    _cached()
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
        sys.exit(dsjax.cli.main.main(arguments))


def quickstart(arguments: list[str], errors: str) -> None:
    """`command`, without gradients and figures, which take the most time."""
    dsjax.training.run.make_gradient_measure = same_gradient
    dsjax.figures.draw = lambda *_, **__: []
    command(arguments, errors)


def small_measure(*_: Any) -> Any:
    """In the place of `make_gradient_measure`: cheap, and of parameters that may be split over processes."""
    return jax.jit(lambda state, base_params: {"norm": optax.tree.norm(state.params)})


def one_of_several(arguments: list[str], output: str, environment: dict[str, str]) -> None:
    """The command line with all that it prints in a file; a task of Slurm has a core of its own, so one device."""
    os.environ |= environment
    os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=2", "")
    if "SLURM_PROCID" in environment:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(environment["SLURM_PROCID"]) % len(cores)]})
    dsjax.training.run.make_gradient_measure = small_measure
    _cached()
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.exit(dsjax.cli.main.main(arguments))


class SmallFiles:
    """Writing beyond `size` bytes fails while this is entered, in C++ too, as on a full disk."""

    def __init__(self, size: int):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def command_on_full_disk(arguments: list[str], errors: str, at: int, size: int) -> None:
    """`command`, where the checkpoint of one update finds no room for files of more than `size` bytes."""
    save = Checkpoints.save

    def limited(self: Checkpoints, step: int, trees: Any, facts: Any, best: int | None) -> None:
        with SmallFiles(size) if step == at else nullcontext():
            save(self, step, trees, facts, best)

    Checkpoints.save = limited
    command(arguments, errors)


def poisoned(logp_BxS: jax.Array, traj: Any, component: str) -> tuple[jax.Array, jax.Array]:
    """`sft`, whose gradient for one component is NaN (and its value is not) if the first operand starts with 7."""
    total, count = resolve("sft")(logp_BxS, traj)
    mask_BxS = {"sample": traj.sample_mask, "decision": traj.decision_mask}[component]
    bad = traj.prompt[0, 0] == 7
    zero = 0.0 * jnp.sum(jnp.where(mask_BxS, logp_BxS, 0.0))
    return total + jnp.where(bad, jnp.sqrt(jnp.where(bad, zero, 1.0)), 0.0), count

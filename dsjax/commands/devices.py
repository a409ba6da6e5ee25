"""What a command that trains asks of JAX before its first program: devices and compiled programs to keep."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from dsjax.configuration import require_int
from dsjax.errors import require

CACHE_VARIABLE = "DSJAX_CACHE"
SHORTEST_KEPT_S = 1.0  # compile time below which a program is not worth a file


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_processor_cores(devices: int | None) -> None:
    """Make a device of each processor core, or as many as asked for; has no effect on accelerators.

    One stream of work per core keeps them busier than one stream whose products are split over them: 20 to 30 % on
    two cores, see docs/performance.md. Must come before the first computation of the process.

    Raises:
      InputError: for a number that is not positive.
    """
    if devices is not None:
        require_int("devices", devices, 1)
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", devices or cores())
    except RuntimeError:  # computations have begun: the devices are what they are
        return


def keep_compiled_programs() -> Path | None:
    """Keep compiled programs between processes in $DSJAX_CACHE, by default in the user's cache folder; `off`: do not.

    Returns:
      The folder, or None.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen == "off" or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    default = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "dsjax" / "xla"
    folder = Path(chosen) if chosen else default
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        require(not chosen, CACHE_VARIABLE, chosen, "a folder that can be written, or `off`")
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_KEPT_S)
    return folder


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this process one of several that train together; all of them run the same command.

    Args:
      coordinator: host:port of process 0; None with the others None: a single process, or what a cluster's
        environment (SLURM, Open MPI, TPU pods) says if `processes` is 0.
      processes: how many; 0 reads everything from the environment.
      process: number of this one.

    Raises:
      InputError: if some are given and others missing.
    """
    if coordinator is None and processes is None and process is None:
        return
    if processes == 0 and coordinator is None and process is None:
        jax.distributed.initialize()
        return
    require(coordinator is not None and ":" in coordinator, "coordinator", coordinator, "host:port of process 0")
    require_int("processes", processes, 1)
    require_int("process", process, 0)
    assert processes is not None
    assert process is not None
    require(process < processes, "process", process, f"0..{processes - 1}")
    jax.distributed.initialize(coordinator, processes, process)

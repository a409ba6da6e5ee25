"""What a command that trains asks of JAX before its first program: devices and compiled programs to keep."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from dsjax.config import require_int
from dsjax.errors import require

CACHE_VARIABLE = "DSJAX_CACHE"
SHORTEST_KEPT_S = 1.0  # compile time below which a program is not worth a file


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_processor_cores(devices: int | None, processes: int | None = None) -> None:
    """Make a device of each processor core, or as many as asked for; has no effect on accelerators.

    One stream of work per core keeps them busier than one stream whose products are split over them. Must come before
    the first computation of the process.

    Args:
      devices: of all processes; None: one of each core.
      processes: that share them; 0: a number that only the cluster knows; None: this one alone.

    Raises:
      InputError: for a number that is not positive, or cannot be shared.
    """
    if devices is not None:
        require_int("devices", devices, 1)
        if processes:
            require(devices % processes == 0, "devices", devices, f"a multiple of --processes {processes}, or null")
            devices //= processes
    if processes == 0:
        devices = None
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

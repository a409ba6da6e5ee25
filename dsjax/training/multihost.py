"""Several processes that train together over `jax.distributed`, on a file system that all of them see.

All compute, save and load; process 0 alone decides what is on disk. Whatever the processes must not differ in (a
checkpoint to start from, an error, the wish to stop) is broadcast from it, or reduced over all of them. If one is lost,
the others cannot go on: they say so and end, and the same command continues from the last checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dsjax.errors import InputError, require

HEARTBEAT_S = 60  # silence after which a process counts as lost; shorter, and a machine that stalls ends a job
JOINING_S = 300  # to wait for all of them at the start
LOST_STATUS = 1
CONTINUES = "start all of them again, the same command continues from the last checkpoint"
_PIECE = 1024  # bytes: what is broadcast is padded to a multiple by doubling, so that few programs are compiled
_TRANSPORT = ("gloo", "nccl", "coordination", "heartbeat", "barrier", "connection", "socket", "unavailable", "peer")


class LostProcessError(RuntimeError):
    """Another process of the job is gone, or cannot be reached."""


def check_options(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Refuse options that do not belong together.

    Args:
      coordinator: HOST:PORT of process 0.
      processes: how many; 0: the environment of the cluster says all three; None: one process, without the others.
      process: number of this one.

    Raises:
      InputError: for the first that is wrong.
    """
    given = {"coordinator": coordinator, "process": process}
    if not processes:
        for name, value in given.items():
            allowed = "nothing, where --processes is 0: the cluster says it" if processes == 0 else "with --processes N"
            require(value is None, name, value, allowed)
        return
    require(processes > 0, "processes", processes, "a number of processes, or 0 for what the cluster says")
    for name, value in given.items():
        require(value is not None, name, value, f"a value, where --processes is {processes}")
    require(0 <= (process or 0) < processes, "process", process, f"0..{processes - 1}, another one for each process")
    host, _, port = (coordinator or "").rpartition(":")
    number = int(port) if port.isdecimal() else 0
    require(bool(host) and 0 < number < 2**16, "coordinator", coordinator, "HOST:PORT, the host of process 0")


def initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Meet the other processes; must come before the first computation. Arguments as in `check_options`.

    Raises:
      InputError: if there is no cluster that says who the others are.
      LostProcessError: if they cannot be reached.
    """
    if processes is None:
        return
    options: dict[str, Any] = {}
    if processes:
        # Without a cluster's detection, which would give each process of a Slurm job one device.
        options = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        options["cluster_detection_method"] = "deactivate"
    jax.config.update("jax_enable_preemption_service", False)  # its handler of SIGTERM would stand beside the command's
    _end_in_words(f"process {process}" if processes else "this process")
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=JOINING_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=HEARTBEAT_S,
        )
    except ValueError as error:
        require(bool(processes), "processes", 0, f"a number: no cluster is found that says it ({error})")
        raise
    except RuntimeError as error:
        where = f"at {coordinator}" if processes else "of the cluster's job"
        raise LostProcessError(f"the processes {where} did not meet ({_short(error)}); {CONTINUES}") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def shutdown() -> None:
    """The orderly end: waits, for `HEARTBEAT_S` at most, until all processes have come to theirs."""
    jax.distributed.shutdown()


def leave(status: int) -> NoReturn:
    """End at once: an orderly end would wait for the others, who may wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_handlers: list[Any] = []  # as long as the process lives


def _end_in_words(who: str) -> None:
    """A clear message and status 1 where the runtime aborts the process, which is how it reports a lost one.

    The abort comes from one of its own threads, in which a handler that Python installs never runs; one in C does.
    """
    text = f"dsjax: {who}: another process of the job is lost, or has ended early; {CONTINUES}\n".encode()

    def ended(number: int) -> None:
        os.write(2, text)
        os._exit(LOST_STATUS)

    _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(ended))
    install = ctypes.CDLL(None).signal
    install.restype = ctypes.c_void_p
    install(int(signal.SIGABRT), _handlers[-1])


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Errors of the transport between processes as `LostProcessError`; other errors as they are."""
    try:
        yield
    except LostProcessError:
        raise
    except Exception as error:
        # jaxlib has no class of its own for it: its runtime error, or a ValueError, with the words of the transport.
        reason = _short(error)
        if jax.process_count() == 1 or not any(word in reason.lower() for word in _TRANSPORT):
            raise
        who = f"process {jax.process_index()} of {jax.process_count()}"
        raise LostProcessError(f"{who}: another process of the job is lost ({reason}); {CONTINUES}") from error


def broadcast(value: Any) -> Any:
    """Plain JSON data of process 0, in every process."""
    if jax.process_count() == 1:
        return value
    data = json.dumps(value).encode() if jax.process_index() == 0 else b""
    with lost_processes_named():
        length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data), np.int32)))
        size = _PIECE
        while size < length:
            size *= 2
        padded = np.frombuffer(data.ljust(size, b" "), np.uint8)
        return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def all_max(number: int | None) -> int | None:
    """The largest number (above 0) that any process gives, None if none gives one."""
    if jax.process_count() == 1:
        return number
    with lost_processes_named():
        return int(np.max(multihost_utils.process_allgather(np.asarray(number or 0, np.int32)))) or None


def barrier(name: str) -> None:
    """Wait until all processes have come here."""
    with lost_processes_named():
        multihost_utils.sync_global_devices(name)


def on_process_0(work: Callable[[], Any]) -> Any:
    """What `work`, done by process 0 alone, returns there: plain JSON data, in every process.

    Raises:
      InputError, OSError: that `work` raises there, in every process.
    """
    if jax.process_count() == 1:
        return work()
    value, error = None, None
    if jax.process_index() == 0:
        try:
            value = work()
        except (InputError, OSError) as caught:
            error = caught
    described = None
    if isinstance(error, InputError):
        described = [error.field, repr(error.received), error.allowed]
    elif error is not None:
        described = [str(error)]
    value, described = broadcast([value, described])
    if error is not None:
        raise error
    if described is not None:
        raise InputError(*described) if len(described) > 1 else OSError(*described)
    return value


def require_same(fields: Mapping[str, Any]) -> None:
    """Refuse, in every process, plain data that is not the same in all of them.

    Raises:
      InputError: for a field that differs.
    """
    theirs = broadcast(dict(fields))
    differ = [i for i, name in enumerate(fields, 1) if json.dumps(theirs.get(name)) != json.dumps(fields[name])]
    which = all_max(max(differ, default=None))
    if which is not None:
        name = list(fields)[which - 1]
        raise InputError(name, fields[name], "the same in every process")


def local_copy(tree: Any) -> Any:
    """All of every array, however it is split, on a device of this process; every process must call it."""
    with lost_processes_named():
        return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))

"""SIGKILL at random moments of a command, to its process and all that this has started; then the command to its end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

KILLS = int(os.environ.get("DSJAX_KILLS", "1"))  # each costs a start; more now and then, see CONTRIBUTING.md
WAIT_S = 300  # far more than anything here takes, on a busy machine too
PROCESSES = multiprocessing.get_context("forkserver")  # new ones in a fraction of a second: its server has imported all
PROCESSES.set_forkserver_preload(["tests.training.run_worker"])
CLOCKS = ("seconds", "compile_seconds", "instances_per_second", "provenance", "init_from")


def without_clocks(data: Any) -> Any:
    """What must be the same whatever happened on the way: results without times, machines and paths."""
    if isinstance(data, dict):
        return {name: without_clocks(value) for name, value in data.items() if name not in CLOCKS}
    return [without_clocks(value) for value in data] if isinstance(data, list) else data


def files_in(path: Path, name: str = "") -> int:
    """How many files are below a path (of that name, if one is given), whose files come and go."""
    return sum(not name or name == file for _, _, files in os.walk(path) for file in files)


def killed(
    work: Callable[..., Any],
    arguments: Sequence[str],
    progress: Callable[[], int],
    whole: int,
    errors: Path,
    last: int | None = None,
) -> Iterator[None]:
    """Run a command, kill it, run it again .. `KILLS` times, then to its end; yields after every kill.

    Args:
      work: `run_worker.command`, or one that makes it cheaper.
      arguments: of the command line.
      progress: how far it is: kills come a little after that has grown to random numbers.
      whole: where a run ends that nothing disturbs.
      errors: a file for what the command says.
      last: progress at the last kill; random too without it.
    """
    rng = np.random.default_rng(KILLS)
    enough = sorted(rng.integers(0, whole, KILLS))
    enough[-1] = enough[-1] if last is None else last
    for least in [*enough, None]:
        process = PROCESSES.Process(target=_in_a_group, args=(work, list(arguments), str(errors)))
        process.start()
        if least is not None:
            begun = progress() >= least
            while process.is_alive() and progress() < least:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.5 if begun else 0.03))  # also while it starts
            _kill(process)
        process.join(WAIT_S)
        assert process.exitcode == (0 if least is None else -signal.SIGKILL), errors.read_text()
        if least is not None:
            yield


def _in_a_group(work: Callable[..., Any], *arguments: Any) -> None:
    os.setpgid(0, 0)
    work(*arguments)


def _kill(process: Any) -> None:
    with suppress(ProcessLookupError):  # it has ended, or not got to the first line of its work
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()

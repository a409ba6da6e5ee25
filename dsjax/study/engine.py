"""What runs the jobs of a study: this process, or workers that Dask starts on many machines.

An engine only starts workers and hands out names. Claims, results and failures are files of the study, so any number
of engines may work on one study at the same time.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsjax.errors import InputError, require
from dsjax.study.jobs import FAILED, RUNNING, Study

_PAUSE = 0.5  # seconds between two looks at jobs that others hold

Notice = Callable[[str, str, float], None]


def _ignore(name: str, state: str, fraction: float) -> None:
    del name, state, fraction


def _unfinished(study: Study, before: Mapping[str, int]) -> bool:
    """Whether anything is left that could still be done: neither failed in this run nor behind such a failure."""
    lost: set[str] = set()
    left = [name for name in study.jobs if not study.done(name)]
    lost.update(name for name in left if study.attempts(name) > before.get(name, 0))
    size = -1
    while len(lost) != size:
        size = len(lost)
        lost.update(name for name in left if not lost.isdisjoint(study.jobs[name].needs))
    return not lost.issuperset(left)


def run_here(study: Study, notice: Notice = _ignore, wait: bool = True) -> None:
    """Do every job that can be done, one at a time, in this process.

    Args:
      study: a started study.
      notice: called with (job, state, fraction) as work goes on.
      wait: when other processes hold all jobs that are left: wait for them and what comes after them, or return.
    """
    before = study.failures()
    while True:
        for name in study.ready(before):
            outcome = study.attempt(name, before.get(name, 0), lambda x, name=name: notice(name, RUNNING, x))
            if outcome is not None:
                notice(name, outcome, study.fraction(name))
                break
        else:
            if not wait or not _unfinished(study, before):
                return
            time.sleep(_PAUSE)


def _attempt(path: str, name: str, before: int) -> tuple[str | None, tuple[str, str, str] | None]:
    """What a worker does: the outcome, or the parts of an `InputError`, which pickle cannot rebuild."""
    try:
        return Study.load(path).attempt(name, before, lambda fraction: None), None
    except InputError as error:
        return None, (error.field, str(error.received), error.allowed)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise InputError("engine", "dask", "here, or dask after pip install 'dsjax[cluster]'") from error
    return distributed


def dask_setup(worker: Any) -> None:
    """What Dask calls in workers started here: Ctrl-C in a terminal goes to them too, but this process ends them."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _client(cluster: Any, resources: Mapping[str, float] | None) -> Iterator[Any]:
    """A client of the cluster: workers here, an address, a scheduler file, a cluster object, or a client itself."""
    distributed = _distributed()
    if isinstance(cluster, distributed.Client):
        yield cluster
    elif isinstance(cluster, int):
        require(cluster >= 1, "workers", cluster, "an integer >= 1")
        local = distributed.LocalCluster(
            n_workers=cluster,
            threads_per_worker=1,
            memory_limit=0,  # Dask would pause or kill a worker by its share of the memory
            dashboard_address=":0",
            silence_logs=logging.ERROR,
            preload=[__name__],
            resources=dict(resources or {}),
        )
        with local, distributed.Client(local) as client:
            yield client
    else:
        file = str(cluster).endswith(".json")
        require(
            not file or Path(cluster).exists(), "address", cluster, "a scheduler file that exists"
        )  # no endless wait
        where = {"scheduler_file": cluster} if file else {"address": cluster}
        try:
            client = distributed.Client(**where)
        except (OSError, ValueError) as error:
            allowed = f"the address or scheduler file of a running Dask scheduler ({error})"
            raise InputError("address", str(cluster), allowed) from error
        with client:
            yield client


def _require_one_job_at_a_time(threads: Mapping[str, int]) -> None:
    for worker, number in threads.items():
        allowed = "workers with --nthreads 1, or resources that allow one job at a time, e.g. GPU=1"
        require(number == 1, f"threads of worker {worker}", number, allowed)


def run_on_dask(
    study: Study,
    cluster: Any,
    resources: Mapping[str, float] | None = None,
    notice: Notice = _ignore,
    wait: bool = True,
) -> None:
    """Do every job that can be done on the workers of a Dask cluster, one at a time on each.

    Args:
      study: a started study, on a path that the workers see too.
      cluster: a number of worker processes to start here; the address or scheduler file of a running scheduler; a
        Dask cluster, e.g. `dask_jobqueue.SLURMCluster`; or a `distributed.Client`.
      resources: what a job takes of the resources that workers were started with, e.g. {"GPU": 1}.
      notice: called with (job, state, fraction) as work goes on.
      wait: as for `run_here`.

    Raises:
      InputError: if Dask is not installed or the cluster cannot be used.
    """
    distributed = _distributed()
    before = study.failures()
    running: dict[str, Any] = {}
    resting: dict[str, float] = {}  # held by other processes: when to ask again
    with _client(cluster, resources) as client, _lost_connection(distributed, cluster):
        try:
            while True:
                threads = client.nthreads()
                if not resources:
                    _require_one_job_at_a_time(threads)
                now = time.monotonic()
                for name in study.ready(before):
                    # No queue on the workers: when one dies, Dask blames all jobs that it was to do.
                    room = len(running) < max(1, sum(threads.values()))
                    if room and name not in running and resting.get(name, now) <= now:
                        running[name] = _submit(client, study, name, before, resources)
                if not running and not (wait and _unfinished(study, before)):
                    return
                for name in _finished(distributed, running):
                    outcome = _outcome(distributed, study, name, running.pop(name))
                    if outcome is None:
                        resting[name] = time.monotonic() + _PAUSE if wait else math.inf
                    else:
                        notice(name, outcome, study.fraction(name))
                for name in running:
                    notice(name, RUNNING, study.fraction(name))
        finally:
            with suppress(Exception):  # whatever ended the run matters more
                client.cancel(list(running.values()))


@contextmanager
def _lost_connection(distributed: Any, cluster: Any) -> Iterator[None]:
    try:
        yield
    except (distributed.comm.CommClosedError, CancelledError) as error:
        allowed = f"a scheduler that stays up; run the same command to continue ({error})"
        raise InputError("address", str(cluster), allowed) from error


def _submit(
    client: Any, study: Study, name: str, before: Mapping[str, int], resources: Mapping[str, float] | None
) -> Any:
    path = str(study.path.resolve())
    key = f"{name}-{uuid.uuid4().hex}"
    return client.submit(
        _attempt, path, name, before.get(name, 0), key=key, pure=False, resources=dict(resources) if resources else None
    )


def _finished(distributed: Any, running: Mapping[str, Any]) -> list[str]:
    """Names whose worker has answered, after a pause at most."""
    if not running:
        time.sleep(_PAUSE)
        return []
    with suppress(TimeoutError):
        distributed.wait(list(running.values()), timeout=_PAUSE, return_when="FIRST_COMPLETED")
    return [name for name, future in running.items() if future.done()]


def _outcome(distributed: Any, study: Study, name: str, future: Any) -> str | None:
    try:
        outcome, refusal = future.result()
    except distributed.KilledWorker as error:
        study.fail(name, error)
        return FAILED
    except (distributed.comm.CommClosedError, CancelledError):
        raise
    except Exception as error:
        allowed = f"workers that can import dsjax and see the study ({type(error).__name__}: {error})"
        raise InputError("cluster", name, allowed) from error
    if refusal is not None:
        raise InputError(*refusal)
    return outcome

"""What runs the jobs of a study: this process, or workers of a Dask cluster.

Here one job is done after the other, in the order of the list. On a cluster Dask gets the whole graph of jobs, each
with its needs as futures, and decides which worker does which job when. Results and failures are files of the study,
so whatever ends a run, the next one continues.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsjax.config import is_finite, require_int
from dsjax.errors import InputError, require
from dsjax.io import read_json, require_memory
from dsjax.study.jobs import DONE, FAILED, RUNNING, WAITING, Study

WORKER_BYTES = 1e8  # of memory that one takes at least
_PAUSE = 0.5  # seconds between two looks at how far the jobs on a cluster are
_SECONDS_TO_SEE = 60.0  # a file system of several machines may show the files of others that late

Notice = Callable[[str, str, float], None]


def _ignore(name: str, state: str, fraction: float) -> None:
    del name, state, fraction


def run_here(study: Study, notice: Notice = _ignore) -> None:
    """Do every job that can be done, one at a time, in this process.

    Args:
      study: to be run.
      notice: called with (job, state, fraction) as work goes on.

    Raises:
      InputError: see `Study.held`.
    """
    with study.held():
        for name in study.left():
            if all(study.done(need) for need in study.jobs[name].needs):
                state = study.do(name, lambda fraction, name=name: notice(name, RUNNING, fraction))
                notice(name, state, study.fraction(name))


def run_on_dask(
    study: Study, cluster: Any, resources: Mapping[str, float] | None = None, notice: Notice = _ignore
) -> None:
    """Do every job that can be done on the workers of a Dask cluster, one at a time on each.

    Args:
      study: to be run, on a path that the workers see too.
      cluster: a number of worker processes to start here; the address or scheduler file of a running scheduler; a
        Dask cluster, e.g. `dask_jobqueue.SLURMCluster`; or a `distributed.Client`.
      resources: what a job takes of the resources that workers were started with, e.g. {"GPU": 1}.
      notice: called with (job, state, fraction) as work goes on.

    Raises:
      InputError: if Dask is not installed or the cluster cannot be used; see also `Study.held`.
    """
    for name, amount in (resources or {}).items():
        require(is_finite(amount) and amount > 0, f"resources {name}", amount, "an amount > 0")
    distributed = _distributed()
    with study.held(), _client(cluster, resources) as client, _lost_connection(distributed, cluster):
        left = study.left()
        while left:
            states = _round(distributed, client, study, left, resources, notice)
            # Else the same jobs would be submitted again and again.
            ended = set(states.values()) - {None}
            require(bool(ended), "cluster", str(cluster), "workers that live long enough to begin a job")
            left = [name for name in left if states[name] is None]


def _round(
    distributed: Any,
    client: Any,
    study: Study,
    names: Sequence[str],
    resources: Mapping[str, float] | None,
    notice: Notice,
) -> dict[str, str | None]:
    """Submit these jobs, needs first, and wait for them; the state of each, None if only deaths of workers kept it."""
    _require_one_job_at_a_time(client, resources)
    path, futures = str(study.path.resolve()), {}
    for name in names:
        needs = {need: futures[need] for need in study.jobs[name].needs if need in futures}
        futures[name] = client.submit(_work, path, name, needs, pure=False, resources=resources or None)
    states: dict[str, str | None] = {}
    try:
        while futures:
            _require_one_job_at_a_time(client, resources)  # workers may come late
            with suppress(TimeoutError):
                distributed.wait(list(futures.values()), timeout=_PAUSE, return_when="FIRST_COMPLETED")
            for name in list(futures):
                if futures[name].done():
                    states[name] = state = _state(distributed, study, name, futures.pop(name))
                    if state in (DONE, FAILED):
                        notice(name, state, study.fraction(name))
                elif study.begun(name):
                    notice(name, RUNNING, study.fraction(name))
    finally:
        with suppress(Exception):  # whatever ended the run matters more
            client.cancel(list(futures.values()))
    for name in names:
        if any(states.get(need, DONE) in (FAILED, WAITING) for need in study.jobs[name].needs):
            states[name] = WAITING
    return states


def _work(path: str, name: str, needs: Mapping[str, str]) -> str:
    """What a worker does, given the states of those needs that this run does too; returns the state of the job."""
    study = Study.load(path)
    if study.done(name):  # Dask computes again what a worker that died had computed
        return DONE
    if set(needs.values()) - {DONE}:
        return WAITING
    end = time.monotonic() + _SECONDS_TO_SEE
    while not all(map(study.done, needs)) and time.monotonic() < end:
        time.sleep(_PAUSE)
    return study.do(name)


def _state(distributed: Any, study: Study, name: str, future: Any) -> str | None:
    try:
        return future.result()
    except distributed.KilledWorker as error:
        # Dask blames every job that the worker was to do, and all that need one of these.
        if not study.begun(name):
            return None
        study.fail(name, error)
        return FAILED
    except (InputError, OSError, CancelledError):  # a connection that is closed, a disk that is full
        raise
    except Exception as error:
        allowed = f"workers that can import dsjax and see the study ({type(error).__name__}: {error})"
        raise InputError("cluster", name, allowed) from error


def _require_one_job_at_a_time(client: Any, resources: Mapping[str, float] | None) -> None:
    for worker, number in () if resources else client.nthreads().items():
        allowed = "workers with --nthreads 1, or resources that allow one job at a time, e.g. GPU=1"
        require(number == 1, f"threads of worker {worker}", number, allowed)


@contextmanager
def _lost_connection(distributed: Any, cluster: Any) -> Iterator[None]:
    try:
        yield
    except (distributed.comm.CommClosedError, CancelledError) as error:
        allowed = f"a scheduler that stays up; run the same command to continue ({error})"
        raise InputError("address", str(cluster), allowed) from error


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise InputError("workers", "of Dask", "none, or after pip install 'dsjax[cluster]'") from error
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
        require_int("workers", cluster, 1)
        require_memory("workers", cluster, WORKER_BYTES * cluster)
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
        if file:  # Dask would wait for one that is not there for ever
            words = "a scheduler file that exists, as `dask scheduler --scheduler-file` writes it"
            data = read_json(Path(cluster), "address", words)
            ok = isinstance(data, dict) and isinstance(data.get("address"), str)
            require(ok, "address", str(cluster), words)
        where = {"scheduler_file": cluster} if file else {"address": cluster}
        try:
            client = distributed.Client(**where)
        except (OSError, ValueError) as error:
            allowed = f"the address or scheduler file of a running Dask scheduler ({error})"
            raise InputError("address", str(cluster), allowed) from error
        with client:
            yield client

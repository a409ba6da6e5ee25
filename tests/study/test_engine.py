"""The jobs of a study on Dask's local cluster: the same results, though workers die, jobs fail, schedulers get lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dsjax.errors import InputError
from dsjax.study.engine import run_here, run_on_dask
from dsjax.study.jobs import DONE, FAILED, TODO, WAITING, Job, Study, merge
from tests.study.test_jobs import EXAMPLE, ROOT, drawing, in_halves, lines, started, states, wait_for

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")


@pytest.fixture(scope="module")
def client():
    options: dict[str, Any] = {"memory_limit": 0, "dashboard_address": ":0", "silence_logs": 50}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def processes(log: Path) -> list[int]:
    return [int(line.split()[-1]) for line in log.read_text().splitlines()]


def test_results_are_those_of_this_process(tmp_path, client):
    here, there = drawing(tmp_path / "here"), drawing(tmp_path / "there", reverse=True)
    run_here(here)
    ended = []
    run_on_dask(there, client, notice=lambda name, state, x: ended.append((name, x)) if state == DONE else None)
    assert json.dumps(merge(there)) == json.dumps(merge(here))
    assert merge(there)["missing"] == []
    assert sorted(ended) == [(name, 1.0) for name in sorted(there.jobs)]
    run_on_dask(there, client, notice=lambda *n: pytest.fail(f"{n} ran again"))


def meet(options, directory, needs, progress):
    """Ends when all of the jobs with that folder have begun."""
    del directory, needs, progress
    folder = Path(options["folder"])
    (folder / str(os.getpid())).touch()
    wait_for(lambda: len(list(folder.iterdir())) == options["count"])
    return None


def test_both_workers_work_at_the_same_time(tmp_path, client):
    (tmp_path / "met").mkdir()
    options = {"folder": str(tmp_path / "met"), "count": 2}
    made = started(tmp_path / "s", [Job(name, "tests.study.test_engine:meet", options) for name in ("one", "two")])
    run_on_dask(made, client)
    assert states(made) == {"one": DONE, "two": DONE}
    met = {int(p.name) for p in (tmp_path / "met").iterdir()}
    assert len(met) == 2
    assert os.getpid() not in met


def test_a_job_of_a_killed_worker_goes_to_another(tmp_path, client):
    log = tmp_path / "log"
    (tmp_path / "wait").touch()
    made = in_halves(tmp_path / "s", log)

    def kill():
        wait_for(lambda: len(lines(log)) == 2)
        os.kill(processes(log)[-1], signal.SIGKILL)
        (tmp_path / "wait").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    run_on_dask(made, client)
    killer.join()
    assert lines(log) == ["one first", "one second", "one second"], "what it kept is there"
    first, second, third = processes(log)
    assert first == second != third
    assert merge(made)["jobs"]["one"]["result"] == {"total": len("first") + len("second")}


@pytest.mark.parametrize("where", ["here", "dask"])
def test_a_failed_job_is_kept_apart_and_tried_again_by_the_next_run(tmp_path, client, where):
    def run(study: Study) -> None:
        run_here(study) if where == "here" else run_on_dask(study, client)

    (tmp_path / "broken").touch()
    jobs = [
        Job("bad", f"{EXAMPLE}:fails_while", {"file": str(tmp_path / "broken")}),
        Job("after", f"{EXAMPLE}:draw", {"seed": 0, "count": 1}, ("bad",)),
        Job("beside", f"{EXAMPLE}:draw", {"seed": 0, "count": 1}),
    ]
    made = started(tmp_path / "s", jobs)
    run(made)
    assert states(made) == {"bad": FAILED, "after": WAITING, "beside": DONE}
    assert made.status()[0].message == "FloatingPointError: loss is nan"
    error = made.folder("bad") / "error.json"
    assert "in fails_while" in json.loads(error.read_text())["traceback"]
    first = error.stat().st_mtime_ns
    run(made)
    assert error.stat().st_mtime_ns > first, "tried again"
    (tmp_path / "broken").unlink()
    run(made)
    assert set(states(made).values()) == {DONE}
    assert merge(made)["jobs"]["after"]["result"]["needs"] == ["bad"]
    assert not error.exists()


def test_a_job_that_kills_its_workers_fails_alone(tmp_path):
    """Dask blames the jobs that wait on the same worker too."""
    draw = (f"{EXAMPLE}:draw", {"seed": 0, "count": 1})
    jobs = [Job("bad", f"{EXAMPLE}:dies"), Job("after", *draw, ("bad",))]
    jobs += [Job("beside", *draw), Job("after-beside", *draw, ("beside",))]
    made = started(tmp_path / "s", jobs)
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        run_on_dask(made, 1)
    assert states(made) == {"bad": FAILED, "after": WAITING, "beside": DONE, "after-beside": DONE}
    assert made.status()[0].message.startswith("KilledWorker")


def blocks_its_files(options, directory, needs, progress):
    """Neither a result nor an error of it can be written afterwards."""
    del options, needs, progress
    for name in ("result.json", "error.json"):
        (directory.path / name).mkdir()


@pytest.mark.parametrize("where", ["here", "dask"])
def test_a_job_whose_end_cannot_be_written_ends_the_run_and_names_the_file(tmp_path, client, where):
    made = started(tmp_path / "s", [Job("one", "tests.study.test_engine:blocks_its_files")])
    with pytest.raises(OSError, match=r"Is a directory: .*one/error\.json"):
        run_here(made) if where == "here" else run_on_dask(made, client)
    assert states(made) == {"one": TODO}


def test_jobs_take_resources_of_workers(tmp_path):
    made = drawing(tmp_path / "s")
    seen = []

    def look(name, state, fraction):
        tasks = distributed.default_client().cluster.scheduler.tasks.values()
        seen.extend(dict(task.resource_restrictions or {}) for task in tasks)

    run_on_dask(made, 1, {"GPU": 1}, look)
    assert merge(made)["missing"] == []
    assert seen
    assert all(restriction == {"GPU": 1} for restriction in seen)


def test_one_job_at_a_time_on_a_worker(tmp_path):
    made = drawing(tmp_path / "s")
    options: dict[str, Any] = {"memory_limit": 0, "dashboard_address": ":0", "processes": False}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster:
        with pytest.raises(InputError, match=r"threads of worker .*received 2.*--nthreads 1"):
            run_on_dask(made, cluster)
        assert set(states(made).values()) == {TODO, WAITING}


def test_a_worker_that_does_not_see_the_study_says_so(tmp_path, client, monkeypatch):
    made = drawing(tmp_path / "s")
    (made.path / "jobs.json").unlink()
    monkeypatch.setattr("dsjax.study.jobs.write_json", lambda path, data: None)
    with pytest.raises(InputError) as error:
        run_on_dask(made, client)
    assert error.value.field == "study directory"
    assert error.value.received == str(made.path / "jobs.json")


def test_an_address_where_nobody_listens_is_refused(tmp_path):
    made = drawing(tmp_path / "s")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(InputError, match=r"address: received 'tcp://127\.0\.0\.1:9'"),
    ):
        run_on_dask(made, "tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"address: .*a scheduler file that exists"):
        run_on_dask(made, str(tmp_path / "none.json"))


def test_a_lost_scheduler_is_told(tmp_path):
    (tmp_path / "wait").touch()
    made = in_halves(tmp_path / "s", tmp_path / "log")
    options: dict[str, Any] = {"memory_limit": 0, "dashboard_address": ":0", "silence_logs": 50}
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, **options)
    address = cluster.scheduler_address

    def close():
        wait_for(lambda: len(lines(tmp_path / "log")) == 2)
        cluster.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(InputError, match=r"address.*same command"):
        run_on_dask(made, address)
    closer.join()
    (tmp_path / "wait").unlink()
    run_here(made)
    assert merge(made)["missing"] == []


def test_an_interrupt_stops_the_workers_and_leaves_the_study_resumable(tmp_path):
    (tmp_path / "wait").touch()
    log = tmp_path / "log"
    made = in_halves(tmp_path / "s", log, ("one", "two", "three"))
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys\n"
        "from dsjax.study.engine import run_on_dask\n"
        "from dsjax.study.jobs import Study\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs the tests may ignore it
        "if __name__ == '__main__':\n"
        "    try: run_on_dask(Study.load(sys.argv[1]), 2)\n"
        "    except KeyboardInterrupt: sys.exit(130)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(made.path)]
    run = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE)
    wait_for(lambda: len(lines(log)) == 4)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    threading.Timer(0.5, (tmp_path / "wait").unlink).start()  # jobs may end while the workers are closed
    error = run.communicate()[1].decode()
    assert run.returncode == 130, error
    assert error == ""
    found = states(made)
    assert set(found.values()) <= {TODO, DONE}
    assert found["three"] == TODO
    run_here(made)
    assert merge(made)["missing"] == []
    assert lines(log).count("one first") == lines(log).count("two first") == 1


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch):
    made = drawing(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"workers: .*dsjax\[cluster\]"):
        run_on_dask(made, 2)

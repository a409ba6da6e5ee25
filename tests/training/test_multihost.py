"""Several processes train as one: the same run, the same stop, and a clear end where one of them is lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from dsjax.cli.main import main
from dsjax.config import to_dict
from dsjax.errors import InputError
from dsjax.io import write_json
from dsjax.training import multihost
from dsjax.training.checkpoints import Checkpoints, check_files
from dsjax.training.config import TrainConfig
from dsjax.training.run import run
from tests.kills import KILLS, PROCESSES
from tests.programs import with_parts
from tests.training import run_worker
from tests.training.finished import assert_same_end, rows_of

TINY = TrainConfig(
    digits=1,
    rounds=2,
    layers=1,
    model_width=16,
    heads=2,
    arm="base",
    updates=60,
    chunk=3,
    evaluate_every=60,
    checkpoint_every=15,
    keep=2,
    learning_rate=1e-2,
    prompts=4,
    group=2,
    evaluation_problems=3,
    devices=2,
)
SLOW = "a dozen starts of processes; test_layout has two that compute the same"
WAIT_S = 100  # far more than anything here takes, on a busy machine too


def lines(path: Path) -> int:
    metrics = path / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


class Job:
    """Two processes of `dsjax train`, on one device each."""

    def __init__(self, folder: Path, path: Path, slurm: bool = False, members: int = 2, extra: Sequence[str] = ()):
        self.path = path
        self.outputs = [folder / f"output{i}" for i in range(members)]
        self.members = []
        self.lines_before = lines(path)
        port = free_port()
        for i, output in enumerate(self.outputs):
            arguments = ["train", str(folder / "config.json"), "--run", str(path), *extra]
            environment = {}
            if slurm:
                arguments += ["--processes", "0"]
                environment = {"SLURM_JOB_ID": str(port - SLURM_PORTS), "SLURM_STEP_NODELIST": "localhost"}
                environment |= {"SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}
            elif members > 1:
                arguments += ["--coordinator", f"localhost:{port}", "--processes", str(members), "--process", str(i)]
            work = (arguments, str(output), environment)
            self.members.append(PROCESSES.Process(target=run_worker.one_of_several, args=work))
            self.members[-1].start()

    def wait_for_rows(self, more: int) -> None:
        """Until there are more lines of metrics than when it began: it has really gone on."""
        deadline = time.monotonic() + WAIT_S
        while lines(self.path) < self.lines_before + more:
            assert time.monotonic() < deadline, "no progress"
            assert all(m.is_alive() for m in self.members), self.printed()
            time.sleep(0.01)

    def signal(self, i: int, number: int) -> None:
        pid = self.members[i].pid
        assert pid is not None
        os.kill(pid, number)

    def end(self, i: int) -> int | None:
        self.members[i].join(WAIT_S)
        return self.members[i].exitcode

    def printed(self) -> list[str]:
        """What each printed, without the greeting of the transport."""
        texts = [path.read_text().splitlines() if path.exists() else [] for path in self.outputs]
        return ["\n".join(line for line in text if not line.startswith("[Gloo]")) for text in texts]

    def ends(self) -> list[int | None]:
        return [self.end(0), self.end(1)]


@pytest.fixture
def start():
    """Starts a `Job`; whatever of it is left is killed in the end."""
    jobs = []

    def one(*args, **options) -> Job:
        jobs.append(Job(*args, **options))
        return jobs[-1]

    yield one
    for member in (m for job in jobs for m in job.members):
        member.kill()
        member.join(WAIT_S)


SLURM_PORTS = 2**16 - 2**12  # JAX takes the port of a Slurm job from there, by its number


def free_port() -> int:
    """Where nothing listens now; of those that a Slurm job may have."""
    for port in np.random.default_rng().permutation(np.arange(SLURM_PORTS, 2**16)):
        with socket.socket() as tried:
            try:
                tried.bind(("", int(port)))
            except OSError:
                continue
            return int(port)
    raise AssertionError("no free port")


@pytest.fixture
def small_measure(monkeypatch):
    """Instead of the slowest program to compile; the processes have it too."""
    with_parts(monkeypatch, make_gradient_measure=run_worker.small_measure)


def one_process(config: TrainConfig, path: Path) -> Path:
    """The same run in this process, on two devices: bit for bit, as each sum has two terms, of one order."""
    run(config, path)
    return path


def lose(job: Job, lost: int) -> None:
    """Kill one in the middle of training: the other says so and ends."""
    job.wait_for_rows(8)
    job.signal(lost, signal.SIGKILL)
    assert (job.end(lost), job.end(1 - lost)) == (-signal.SIGKILL, 1), job.printed()
    printed = job.printed()[1 - lost]
    said = [line for line in printed.splitlines() if line.startswith("dsjax: process")]
    assert said, printed
    message = said[-1]  # what the runtime's own threads write may come after it
    assert "another process of the job is lost" in message
    assert "the same command continues from the last checkpoint" in message
    assert "Traceback" not in "".join(job.printed())


@pytest.mark.skipif(KILLS == 1, reason=SLOW)
@pytest.mark.usefixtures("small_measure")
def test_two_processes_of_which_one_was_lost_end_as_one_does(start, tmp_path):
    write_json(tmp_path / "config.json", to_dict(TINY))
    disturbed = tmp_path / "disturbed"
    lose(start(tmp_path, disturbed), lost=1)
    done = Checkpoints(disturbed / "checkpoints", 2).steps()[-1]
    assert 0 < done < TINY.updates
    job = start(tmp_path, disturbed, slurm=True)
    assert job.ends() == [0, 0], job.printed()
    assert f"Continuing after update {done} of {TINY.updates}" in job.printed()[0]
    assert "best: highest final accuracy" in job.printed()[0]
    assert job.printed()[1] == ""
    assert_same_end(disturbed, one_process(TINY, tmp_path / "one"), TINY)
    assert {row["kind"] for row in rows_of(disturbed)} == {"train", "gradient", "evaluation"}


@pytest.mark.skipif(KILLS == 1, reason=SLOW)
@pytest.mark.usefixtures("small_measure")
def test_split_parameters_outlive_a_signal_and_the_loss_of_process_0(start, tmp_path):
    config = dataclasses.replace(TINY, parameter_sharding="fsdp")
    write_json(tmp_path / "config.json", to_dict(config))
    path = tmp_path / "run"
    job = start(tmp_path, path)
    job.wait_for_rows(3)
    job.signal(1, signal.SIGTERM)  # to one of them
    assert job.ends() == [128 + signal.SIGTERM] * 2, job.printed()
    last = Checkpoints(path / "checkpoints", 2).steps()[-1]
    folder = path / "checkpoints" / f"{last:08d}"
    check_files(folder)
    assert {p.name for p in folder.glob("arrays/params/ocdbt.*")} == {"ocdbt.process_0", "ocdbt.process_1"}
    said, nothing = job.printed()
    assert said.splitlines()[-1].startswith(f"dsjax: stopped after update {last} of {config.updates}, all of it saved")
    assert "Traceback" not in said
    assert nothing == ""
    lose(start(tmp_path, path), lost=0)
    job = start(tmp_path, path)
    assert job.ends() == [0, 0], job.printed()
    assert_same_end(path, one_process(config, tmp_path / "one"), config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--coordinator", "host:1234"], ["coordinator", "with --processes N"]),
        (["--process", "0"], ["process", "with --processes N"]),
        (["--processes", "2", "--process", "0"], ["coordinator", "None", "a value"]),
        (["--processes", "2", "--coordinator", "host:1234"], ["process", "None", "a value"]),
        (["--processes", "2", "--coordinator", "host:1234", "--process", "2"], ["process", "2", "0..1"]),
        (["--processes", "2", "--coordinator", "host", "--process", "0"], ["coordinator", "'host'", "HOST:PORT"]),
        (["--processes", "2", "--coordinator", "h:99999", "--process", "0"], ["coordinator", "HOST:PORT"]),
        (["--processes", "-1", "--coordinator", "host:1234", "--process", "0"], ["processes", "-1"]),
        (["--processes", "0", "--coordinator", "host:1234"], ["coordinator", "the cluster says it"]),
        (["--processes", "3", "--coordinator", "host:1234", "--process", "0"], ["devices", "2", "a multiple of"]),
    ],
)
def test_options_that_do_not_belong_together_are_refused(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "tiny.json", to_dict(TINY))
    assert main(["train", "tiny.json", "--run", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsjax: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()


def test_without_a_cluster_nobody_says_who_the_others_are(start, tmp_path):
    write_json(tmp_path / "config.json", to_dict(TINY))
    job = start(tmp_path, tmp_path / "run", members=1, extra=["--processes", "0"])
    assert job.end(0) == 2
    assert "dsjax: processes: received 0; allowed: a number: no cluster is found" in job.printed()[0]


def test_settings_that_differ_between_processes_are_refused(monkeypatch):
    monkeypatch.setattr(multihost, "broadcast", lambda value: {**value, "seed": 1})
    multihost.require_same({"seed": 1, "group": 2})
    with pytest.raises(InputError, match="seed: received 0; allowed: the same in every process"):
        multihost.require_same({"seed": 0, "group": 2})


@pytest.mark.parametrize("error", [InputError("group", 1, "2"), OSError("disk full")])
def test_an_error_of_process_0_is_one_of_all(error, monkeypatch):
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost, "broadcast", lambda value: sent.append(value) or value)

    def work():
        raise error

    with pytest.raises(type(error), match=str(error)):
        multihost.on_process_0(work)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost, "broadcast", lambda value: sent[0])
    with pytest.raises(type(error), match=error.args[0].split(":")[0]):
        multihost.on_process_0(lambda: pytest.fail("only process 0 works"))


def test_only_words_of_the_transport_are_a_loss(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with (
        pytest.raises(multihost.LostProcessError, match="process 0 of 2: another process of the job is lost"),
        multihost.lost_processes_named(),
    ):
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    with pytest.raises(ValueError, match="RESOURCE_EXHAUSTED"), multihost.lost_processes_named():
        raise ValueError("RESOURCE_EXHAUSTED: out of memory")

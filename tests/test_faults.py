"""Full disks, read-only directories, clocks set back, two commands in one directory: told, and nothing is lost."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dsjax.figures
from dsjax.cli.main import main
from dsjax.config import to_dict
from dsjax.figures import style
from dsjax.io import write_json
from dsjax.study.jobs import Study, merge
from dsjax.training.run import Stopped, run
from dsjax.training.run_directory import RunDirectory, opened
from tests.kills import without_clocks
from tests.programs import own_programs, with_parts
from tests.study.test_jobs import EXAMPLE, ROOT, write_definition
from tests.study.test_quickstart import tiny
from tests.training import run_worker
from tests.training.finished import assert_same_end
from tests.training.test_run import TINY, stop_at


@dataclass(frozen=True)
class Command:
    """A command, the directory of what it has finished, one where work is left, and whether two have the same end."""

    name: str
    arguments: list[str]
    finished: Path
    unfinished: Path
    assert_same: Callable[[Path, Path], None]

    def on(self, path: Path) -> list[str]:
        return [*self.arguments, {"train": "--run"}.get(self.name, "--out"), str(path)]

    def assert_continues(self, path: Path) -> None:
        """The same command ends as if nothing had been."""
        assert main(self.on(path)) == 0
        self.assert_same(path, self.finished)


def same_jobs(path: Path, other: Path) -> None:
    assert without_clocks(merge(Study.load(path))) == without_clocks(merge(Study.load(other)))
    assert all(0 <= status.seconds < 1000 for status in Study.load(path).status())


def same_results(path: Path, other: Path) -> None:
    same_jobs(path, other)
    one, two = (json.loads((p / "results.json").read_text()) for p in (path, other))
    assert without_clocks(one) == without_clocks(two)
    for name in ("F.png", "F.svg", "F.csv"):
        assert (path / name).read_bytes() == (other / name).read_bytes()
    assert not list(path.glob(".F*"))  # nothing half written


def one_figure(report: Any, directory: Path, **_: Any) -> list[Path]:
    """In the place of `draw`: a small one."""
    return style.write(directory / "F", style.new_figure(1.0, 1.0, "F"), [{"jobs": report["jobs"]}])


PROGRAMS = own_programs()


def make_cheap(patch: pytest.MonkeyPatch) -> None:
    with_parts(patch, PROGRAMS, make_gradient_measure=run_worker.small_measure)
    patch.setattr(dsjax.figures, "draw", one_figure)


@pytest.fixture(scope="module", params=["train", "study", "quickstart"])
def prepared(request, tmp_path_factory) -> Command:
    folder = tmp_path_factory.mktemp(request.param)
    finished, unfinished = folder / "finished", folder / "unfinished"
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch)
        if request.param == "train":
            write_json(folder / "tiny.json", to_dict(TINY))
            run(TINY, finished)
            with pytest.raises(Stopped):
                run(TINY, unfinished, **stop_at(14))
            same = functools.partial(assert_same_end, config=TINY)
            return Command("train", ["train", str(folder / "tiny.json")], finished, unfinished, same)
        arguments, same = ["study", "run", str(write_definition(folder / "d"))], same_jobs
        if request.param == "quickstart":
            data = {**tiny(), "jobs": f"{EXAMPLE}:quick_jobs", "report": f"{EXAMPLE}:quick_report"}
            write_json(folder / "study.json", data)
            arguments, same = ["quickstart", "--config", str(folder / "study.json")], same_results
        made = Command(request.param, arguments, finished, unfinished, same)
        assert main(made.on(finished)) == 0
        shutil.copytree(finished, unfinished)
        for name in ("jobs/a/seed-0/result.json", "jobs/b/seed-0/result.json", "results.json", "F.png"):
            (unfinished / name).unlink(missing_ok=True)
        return made


@pytest.fixture
def command(prepared, monkeypatch) -> Command:
    make_cheap(monkeypatch)
    return prepared


@pytest.fixture
def path(command, tmp_path) -> Path:
    """A directory where work is left."""
    return Path(shutil.copytree(command.unfinished, tmp_path / "run"))


def last_line(text: str, path: Path) -> str:
    """The one that names the directory; no traceback stands before it."""
    assert "Traceback" not in text
    line = text.splitlines()[-1]
    assert line.startswith("dsjax: ")
    assert str(path) in line
    return line


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """Something else in the place of the directory, where the system lets us."""
    if shutil.which("mount") is None or subprocess.run(["mount", *options, path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """A small one, filled to its last byte; what was written there is in the directory afterwards."""
    before, after = path.with_name("before"), path.with_name("after")
    shutil.copytree(path, before)
    with mounted(path, "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        shutil.copytree(before, path, dirs_exist_ok=True)
        filler = path / "checkpoints" / "filler" if (path / "checkpoints").exists() else path / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            file.writelines(itertools.repeat(bytes(1000)))
        yield
        filler.unlink()
        shutil.copytree(path, after)
    shutil.rmtree(path)
    after.rename(path)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Permissions do not bind root, a mount does."""
    with mounted(path, "--bind", str(path)):
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").touch()
        yield


@contextmanager
def not_permitted(path: Path) -> Iterator[None]:
    """What the system answers where it is read-only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        yield


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    stored = json.loads((path / "config.json").read_text())
    with opened(RunDirectory(path, stored["kind"], stored["config"])):
        yield


FAULTS: dict[str, tuple[Callable[[Path], AbstractContextManager[None]], int, str]] = {
    "full disk": (full_disk, 1, "No space left on device"),
    "read-only": (read_only, 2, "Read-only file system"),
    "not permitted": (not_permitted, 2, "Permission denied"),
    "in use": (in_use, 2, "one that no other process is using"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_and_without_it_the_same_command_continues(name, command, path, capsys):
    fault, status, words = FAULTS[name]
    with fault(path):
        assert main(command.on(path)) == status
        assert words in last_line(capsys.readouterr().err, path)
    command.assert_continues(path)


@contextmanager
def full_after(writes: int) -> Iterator[None]:
    """A disk that has room for so many files."""
    fsync, left = os.fsync, iter(range(writes))

    def counted(handle: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted)
        yield


def test_a_disk_may_be_full_at_any_write(command, tmp_path, capsys):
    path = tmp_path / "new"
    counts = (4**n - 1 for n in itertools.count()) if command.name == "train" else itertools.count()
    for writes in counts:
        with full_after(writes):
            status = main(command.on(path))
        said = capsys.readouterr()
        if status == 0:
            break
        assert status == 1
        assert "No space left on device" in said.out + said.err
        assert "Traceback" not in said.out + said.err
        assert "with room to write, the same command continues" in said.err or "1 failed" in said.out
    assert writes > 3
    command.assert_continues(path)


def test_a_second_command_in_its_directory_is_refused_and_the_first_one_goes_on(command, path, capsys, monkeypatch):
    fsync, refusals = os.fsync, []

    def meanwhile(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        if not refusals:
            refusals.append(main(command.on(path)))
            assert "one that no other process is using" in last_line(capsys.readouterr().err, path)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    command.assert_continues(path)
    assert refusals == [2]


def test_a_clock_that_is_set_back_changes_nothing(command, path, monkeypatch):
    clock = itertools.count(2e9, -3600)
    for file in (path, *path.rglob("*")):
        os.utime(file, (3e9, 3e9))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    assert time.time() > time.time()
    command.assert_continues(path)
    if command.name == "train":
        times = [json.loads(line)["time"] for line in (path / "timings.jsonl").read_text().splitlines()]
        assert times[-1] < times[-2]


ROLLOUTS = f"{ROOT}/tests/rollouts/files/train_data_step3.jsonl"
OUTPUTS = [
    ("check --theorem T10 --quick --instances 2 --json", "out.json"),
    (f"attribute {ROLLOUTS} --objective dapo --resamples 5 --json", "out.json"),
    (f"decisions {ROLLOUTS} --tokenizer {ROOT}/tests/rollouts/files/tokenizer.json --out", "out.npz"),
    ("explore --out", "out.html"),
    (f"figures {ROOT}/experiments/quickstart --out", "F1_share_against_length.png"),
]
COMMANDS = [arguments.split()[0] for arguments, _ in OUTPUTS]


@pytest.mark.parametrize(("arguments", "name"), OUTPUTS, ids=COMMANDS)
def test_an_output_that_cannot_be_written_leaves_the_old_one(arguments, name, tmp_path, capsys, monkeypatch):
    first = "F1_share_against_length"  # every figure is written in the same way
    monkeypatch.setattr(dsjax.figures, "FIGURES", {first: style.FIGURES[first]})
    folder = tmp_path / "outputs"
    folder.mkdir()
    file = folder / name
    file.write_text("old")
    command = [*arguments.split(), str(folder if arguments.startswith("figures") else file)]
    with full_after(0):
        assert main(command) == 1
    assert "No space left on device" in last_line(capsys.readouterr().err, folder)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "old")]
    assert main(command) == 0
    assert file.read_bytes() != b"old"


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in OUTPUTS], ids=COMMANDS)
def test_an_output_in_a_read_only_directory_is_refused_before_the_work(arguments, tmp_path, capsys):
    folder = tmp_path / "outputs"
    folder.mkdir()
    command = [*arguments.split(), str(folder if arguments.startswith("figures") else folder / "out")]
    with read_only(folder):
        assert main(command) == 2
        assert "Read-only file system" in last_line(capsys.readouterr().err, folder)
    assert not list(folder.iterdir())

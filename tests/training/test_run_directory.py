"""Run directories: stages once, no foreign or other results touched, one user at a time, strict JSON."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsjax.errors import InputError
from dsjax.io import write_json
from dsjax.training.run_directory import RunDirectory, StageWriter, in_use, opened, provenance

CONFIG: dict[str, Any] = {"seed": 3, "net": {"layers": 2, "width": 8}}


def directory(path: Path, kind: str = "quickstart", **changes: Any) -> RunDirectory:
    return RunDirectory(path, kind, {**CONFIG, **changes})


def snapshot(path: Path) -> dict[str, tuple[bytes | None, int]]:
    """Every name below path with its bytes and time of change."""
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(p.relative_to(path)): (p.read_bytes() if p.is_file() else None, p.lstat().st_mtime_ns) for p in found}


def refused(run: RunDirectory) -> InputError:
    """The error of opening it, after which everything on disk is as before."""
    before = snapshot(run.path) if run.path.exists() else None
    with pytest.raises(InputError) as caught:
        run.open()
    assert (snapshot(run.path) if run.path.exists() else None) == before
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_stage_runs_once(tmp_path):
    calls = []

    def work(writer: StageWriter) -> dict[str, Any]:
        calls.append(writer.name)
        writer.record({"loss": 0.5})
        writer.record({"loss": 0.25})
        return {"answer": 42}

    with opened(directory(tmp_path / "run")) as out:
        assert not out.done("one")
        first = out.run_stage("one", work)
        assert out.done("one")
        assert out.run_stage("one", work) == first
        assert out.run_stage("two", work)["answer"] == 42
    with opened(directory(tmp_path / "run")) as out:  # another process, later
        assert out.run_stage("one", work) == out.result("one") == first
        assert out.rows("one") == [{"stage": "one", "loss": 0.5}, {"stage": "one", "loss": 0.25}]
        assert out.rows("three") == []
    assert calls == ["one", "two"]
    assert first["answer"] == 42
    assert first["seconds"] >= 0


class Killed(BaseException):
    """Stands for SIGKILL: no handler in the library may catch it."""


def test_a_half_done_stage_starts_again(tmp_path):
    def half(writer: StageWriter) -> dict[str, Any]:
        writer.record({"half": True})
        assert (writer.folder / "metrics.jsonl").read_text().endswith("\n")  # written at once, not at the end
        (writer.folder / "params.msgpack").write_bytes(b"half")
        raise Killed

    def whole(writer: StageWriter) -> dict[str, Any]:
        assert [p.name for p in writer.folder.iterdir()] == ["metrics.jsonl"]  # nothing of the first attempt
        writer.record({"half": False})
        return {}

    with opened(directory(tmp_path / "run")) as out:
        out.run_stage("before", lambda _: {"kept": 1})
        with pytest.raises(Killed):
            out.run_stage("one", half)
        assert not out.done("one")
        assert out.rows("one") == [{"stage": "one", "half": True}]
    with opened(directory(tmp_path / "run")) as out:
        out.run_stage("one", whole)
        assert out.done("one")
        assert out.rows("one") == [{"stage": "one", "half": False}]
        assert out.result("before")["kept"] == 1


def test_a_new_an_empty_and_an_own_directory_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "deep" / "new", tmp_path / "empty", tmp_path / "empty"):
        with opened(directory(path)) as out:
            stored = json.loads((path / "config.json").read_text())
        assert stored == {"kind": "quickstart", "format": 1, "config": CONFIG}
        assert out.path == path


def test_own_results_are_not_rewritten_by_opening(tmp_path):
    with opened(directory(tmp_path / "run")) as out:
        out.run_stage("one", lambda _: {"x": 1})
    before = snapshot(tmp_path / "run")
    with opened(directory(tmp_path / "run")):
        pass
    assert snapshot(tmp_path / "run") == before


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "chapters").mkdir()
    for name in ("thesis.tex", "chapters/one.tex", "notes", "zz"):
        (tmp_path / name).write_text("mine")
    error = refused(directory(tmp_path))
    assert (error.field, error.received) == ("output directory", str(tmp_path))
    assert "new or empty directory" in error.allowed
    assert "(it holds chapters, notes, thesis.tex)" in error.allowed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[]",
        b'"quickstart"',
        b"{}",
        b'{"compilerOptions": {}}',
        b'{"kind": "quickstart", "format": 1}',
        b'{"kind": "quickstart", "format": 1, "config": [1]}',
        b'{"kind": "quickstart", "format": 2, "config": {"seed": 3, "net": {"layers": 2, "width": 8}}}',
        b'{"kind": "study", "format": 1, "config": {"seed": 3, "net": {"layers": 2, "width": 8}}}',
    ],
)
def test_a_config_json_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    error = refused(directory(tmp_path))
    assert error.field == "output directory"
    assert error.received in (str(tmp_path), str(tmp_path / "config.json"))


def test_results_of_another_kind_of_run_are_refused(tmp_path):
    with opened(directory(tmp_path / "run")):
        pass
    assert "one of a study run" in refused(directory(tmp_path / "run", kind="study")).allowed


@pytest.mark.parametrize(
    ("changes", "field", "received", "old"),
    [
        ({"seed": 4}, "seed", 4, "3,"),
        ({"net": {"layers": 2, "width": 16}}, "net.width", 16, "8,"),
        ({"net": {"layers": 2}}, "net.width", None, "8,"),
        ({"added": "x"}, "added", "x", "None,"),
    ],
)
def test_another_configuration_is_refused_by_its_field(tmp_path, changes, field, received, old):
    with opened(directory(tmp_path / "run")) as out:
        out.run_stage("one", lambda _: {"x": 1})
    error = refused(directory(tmp_path / "run", **changes))
    assert (error.field, error.received) == (field, received)
    assert error.allowed.startswith(old)
    assert str(tmp_path / "run") in error.allowed
    assert "or another output directory" in error.allowed
    assert "more fields differ" not in error.allowed


def test_the_number_of_other_differences_is_told(tmp_path):
    with opened(directory(tmp_path / "run")):
        pass
    error = refused(directory(tmp_path / "run", seed=4, net={"layers": 3, "width": 4}))
    assert "2 more fields differ: net.layers 2 -> 3, net.width 8 -> 4" in error.allowed


def test_fields_that_may_change_replace_the_old_value(tmp_path):
    path = tmp_path / "run"
    with opened(directory(path)):
        pass
    longer = {**CONFIG, "seed": 4}
    error = refused(RunDirectory(path, "quickstart", {**longer, "net": {"layers": 2, "width": 4}}, {"seed"}))
    assert (error.field, error.received) == ("net.width", 4)
    with opened(RunDirectory(path, "quickstart", longer, {"seed"})):
        assert json.loads((path / "config.json").read_text())["config"] == longer
    with opened(directory(path, seed=4)):  # it is the run's own value now
        pass
    assert refused(directory(path)).field == "seed"


def test_a_first_start_that_was_killed_is_no_foreign_directory(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.x7f").write_bytes(b'{"kind": "qu')
    with opened(directory(tmp_path)) as out:
        assert json.loads((out.path / "config.json").read_text())["config"] == CONFIG


def test_what_another_process_made_meanwhile_is_refused(tmp_path, monkeypatch):
    """Between the first look and the lock, another one opens the directory with another configuration, and ends."""
    flock = fcntl.flock

    def late(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        with opened(directory(tmp_path / "run", seed=4)):
            pass
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="seed: received 3; allowed: 4"):
        directory(tmp_path / "run").open()
    with opened(directory(tmp_path / "run", seed=4)):
        pass


def test_a_file_is_no_directory(tmp_path):
    file = tmp_path / "out"
    file.write_text("mine")
    assert refused(directory(file)).allowed == "a directory (this is a file)"
    below = refused(directory(file / "run"))
    assert (below.field, below.received) == ("output directory", str(file / "run"))
    assert "can be written" in below.allowed
    assert file.read_text() == "mine"


def test_a_second_handle_is_refused_while_the_first_is_open(tmp_path):
    first = directory(tmp_path / "run")
    assert not in_use(first.path)
    first.open()
    assert in_use(first.path)
    assert "no other process" in refused(directory(tmp_path / "run")).allowed
    assert "no other process" in refused(first).allowed
    assert "no other process" in refused(directory(tmp_path / "run")).allowed  # a refusal does not free it
    first.close()
    first.close()
    assert not in_use(first.path)
    with opened(directory(tmp_path / "run")):
        pass


def test_the_lock_holds_between_processes(tmp_path):
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a')\n"
        "try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(7)\n"
    )

    def other() -> int:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], check=False).returncode

    def interrupted() -> None:
        with opened(directory(tmp_path)):
            assert other() == 7
            raise Killed

    with pytest.raises(Killed):
        interrupted()
    assert other() == 0  # freed, whatever ended the work


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Permissions do not bind root, so: a folder in the place of the lock file, and an answer of the system."""
    (tmp_path / "a" / ".lock").mkdir(parents=True)
    error = refused(directory(tmp_path / "a"))
    assert (error.field, error.received) == ("output directory", str(tmp_path / "a"))
    assert "can be written (Is a directory)" in error.allowed
    name_too_long = directory(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match=r"output directory: .*too long"):
        name_too_long.open()
    with opened(directory(tmp_path / "b")):
        pass
    monkeypatch.setattr(os, "access", lambda *_: False)  # read-only since then, with a lock file that is not
    assert "can be written (Permission denied)" in refused(directory(tmp_path / "b")).allowed
    monkeypatch.undo()
    with opened(directory(tmp_path / "b")):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_permissions_are_respected(tmp_path):
    (tmp_path / "sealed").mkdir()
    (tmp_path / "sealed").chmod(0o500)
    assert "Permission denied" in refused(directory(tmp_path / "sealed")).allowed
    assert "Permission denied" in refused(directory(tmp_path / "sealed" / "run")).allowed


NOT_JSON = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("bad", NOT_JSON)
def test_json_is_strict(tmp_path, bad):
    file = tmp_path / "x.json"
    write_json(file, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"x": [bad]})
    assert json.loads(file.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]

    with opened(directory(tmp_path / "run")) as out:
        with pytest.raises(ValueError, match="JSON"):
            out.run_stage("one", lambda _: {"x": bad})
        assert not out.done("one")
        with pytest.raises(ValueError, match="JSON"):
            out.run_stage("two", lambda writer: writer.record({"x": bad}) or {})
        assert out.rows("two") == []
    with pytest.raises(ValueError, match="JSON"):
        directory(tmp_path / "other", seed=bad).open()
    assert not (tmp_path / "other" / "config.json").exists()


def test_provenance_is_plain_data_about_this_machine():
    data = provenance()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["device"]["platform"] == "cpu"
    assert data["device"]["count"] == 2  # as the test settings ask for
    assert set(data["packages"]) == {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert platform.system() != "Linux" or data["processor"] in Path("/proc/cpuinfo").read_text()

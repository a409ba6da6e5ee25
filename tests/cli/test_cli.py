"""The command line: exit statuses and messages; nothing is overwritten on bad input."""

import gzip
import json
import runpy
import sys

import pytest

from dsjax.cli.main import joined, main
from dsjax.errors import InputError
from dsjax.study.results import read_results


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "--theorem", "T99"], ["theorem", "'T99'", "T1, T2"]),
        (["check", "--theorem", "T1", "t2"], ["theorem", "'t2'", "T1, T2"]),
        (["check", "--instances", "0"], ["instances", "0", "at least 1"]),
        (["check", "--seed", "-1"], ["seed", "-1", "0..2^32-1"]),
        (["quickstart", "--seed", "4294967296"], ["seed", "4294967296", "0..2^32-1"]),
        (["quickstart", "--instances", "0"], ["instances", "0", ">= 1"]),
        (["quickstart", "--updates", "7"], ["updates", "7", "a multiple of evaluate_every = 25"]),
        (["quickstart", "--config", "no-such.json"], ["study", "no-such.json", "readable study.json"]),
        (["check", "--symbolic", "--statistical"], ["symbolic and statistical", "one of them"]),
        (["check", "--symbolic", "--theorem", "T14"], ["theorem", "'T14'", "T1, T2"]),
        (["check", "--process", "no.such:process"], ["process", "'no.such:process'", "imported"]),
        (["check", "--process", "math:sqrt"], ["process", "math:sqrt"]),
        (
            ["check", "--process", "tests.processes:nothing"],
            ["process", "tests.processes:nothing", "returns a process"],
        ),
        (["check", "--process", "tests.processes:large"], ["number of trajectories", "2728", "at most 500"]),
        (["check", "--instance-file", "none.json"], ["instance-file", "none.json", "readable JSON"]),
        (["atlas", "--objective", "nope"], ["objective", "'nope'", "reinforce", "module:function"]),
        (["atlas", "--objective", "sft", "--set", "w=1"], ["option of objective sft", "'w'", "decision_weight"]),
        (["atlas", "--length", "0"], ["length", "0", "1..1024"]),
        (["attribute", "none.npz"], ["none.npz"]),
        (["figures", "no-such-run"], ["run", "no-such-run", "finished study"]),
    ],
)
def test_bad_input_names_field_value_and_allowed(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsjax: ")
    assert error.count("\n") == 1, "one line, no traceback"
    assert all(w in error for w in words), error
    assert list(tmp_path.iterdir()) == []


def refused(arguments, capsys) -> str:
    """Exit status 2 and one line; returns the line."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsjax: ")
    assert error.count("\n") == 1, "one line, no traceback"
    assert "; allowed: " in error
    return error


def files(path):
    """Names, bytes and times of everything below path."""
    return {p: (p.read_bytes() if p.is_file() else None, p.stat().st_mtime_ns) for p in [path, *path.rglob("*")]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"name": "x"}', ["jobs in", "config.json", "a text"]),
        (b'{"name": "x", "jobs": "a:b"}', ["presets in", "config.json", "at least one preset"]),
        (b"[1]", ["study", "config.json", "JSON object"]),
        (b"{", ["study", "config.json", "readable study.json"]),
        (b"\xff\xfe", ["study", "config.json", "readable study.json"]),
        (b'{"seed": 1' + b"0" * 5000 + b"}", ["study", "config.json", "readable study.json"]),
    ],
)
def test_bad_study_files(content, words, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    before = files(tmp_path)
    error = refused(
        ["quickstart", "--out", str(tmp_path / "run"), "--config", str(tmp_path / "config.json")],
        capsys,
    )
    assert all(w in error for w in words), error
    assert files(tmp_path) == before


def test_the_report_file_is_checked_before_the_work(tmp_path, capsys, monkeypatch):
    import proofs_check

    monkeypatch.setattr(proofs_check, "run", lambda *_, **__: pytest.fail("checked first"))
    (tmp_path / "file").write_text("mine")
    before = files(tmp_path)[tmp_path / "file"]
    reasons = {"file/report.json": "Not a directory", "none/report.json": "No such file", "": "Is a directory"}
    for name, reason in reasons.items():
        error = refused(["check", "--json", str(tmp_path / name)], capsys)
        assert all(w in error for w in ("json: received", str(tmp_path / name), "can be written", reason)), error
    assert files(tmp_path)[tmp_path / "file"] == before
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_directories_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    before = files(tmp_path)
    for name, reason in (("file", "this is a file"), ("file/run", "Not a directory"), ("locked", "Is a directory")):
        error = refused(["quickstart", "--out", str(tmp_path / name)], capsys)
        assert all(w in error for w in ("output directory", str(tmp_path / name), reason)), error
    assert files(tmp_path) == before


WHOLE = b'{"format": 2, "jobs": {}}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "format 1 or 2"),
        (b"[]", "format 1 or 2"),
        (b'{"format": 3, "jobs": {}}', "format 1 or 2"),
        (b'{"format": 1, "jobs": {}, "report": {"histories": {"none": {}}}}', "'config'"),
        (
            b'{"format": 1, "lengths": [], "accounting": {}}',
            "`dsjax quickstart` 0.1.0, whose figures that version draws",
        ),
        (b"", "finished study"),
        (b"\xff", "finished study"),
        (WHOLE, "with a report"),
    ],
)
def test_results_of_something_else_are_not_drawn(content, words, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(content)
    error = refused(["figures", str(tmp_path)], capsys)
    assert all(w in error for w in ("run: received", str(tmp_path), words)), error
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_packed_results_are_read_and_broken_ones_refused(tmp_path):
    packed = gzip.compress(WHOLE)
    file = tmp_path / "results.json.gz"
    file.write_bytes(packed)
    for path in (tmp_path, file):
        assert read_results("run", path) == (file, json.loads(WHOLE))
    for content in (packed[:-9], packed[:12] + b"\xff" + packed[13:], WHOLE, gzip.compress(b"{"), b""):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"run: .*finished study"):
            read_results("run", tmp_path)
    (tmp_path / "results.json").write_bytes(WHOLE)  # a later report
    assert read_results("run", tmp_path) == (tmp_path / "results.json", json.loads(WHOLE))


def test_repeated_settings_are_all_taken():
    asked = ["train", "f", "--set", "a=1", "b=2", "--run", "d", "--set", "c=3", "--override", "d=4"]
    assert joined(asked) == ["train", "f", "--run", "d", "--set", "a=1", "b=2", "c=3", "--override", "d=4"]
    assert joined(["check", "--quick"]) == ["check", "--quick"]


def test_unknown_command_exits_with_2():
    with pytest.raises(SystemExit) as exit_:
        main(["nonsense"])
    assert exit_.value.code == 2


def test_foreign_directory_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_check_writes_its_report_and_fails_on_a_broken_theorem(tmp_path, capsys, monkeypatch):
    file = tmp_path / "report.json"
    assert main(["check", "--theorem", "T10", "--instances", "4", "--json", str(file)]) == 0
    assert [t["id"] for t in json.loads(file.read_text())["theorems"]] == ["T10"]
    from proofs_check.theorems.t10_accounting import numeric as t10_accounting

    right = t10_accounting.final_accuracy
    monkeypatch.setattr(t10_accounting, "final_accuracy", lambda p, a, b, rounds: right(p, a, b, rounds) * 1.001)
    assert main(["check", "--theorem", "T10", "--instances", "4"]) == 1


def test_the_module_is_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dsjax", "check", "--instances", "0"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("dsjax", run_name="__main__")
    assert "instances" in capsys.readouterr().err

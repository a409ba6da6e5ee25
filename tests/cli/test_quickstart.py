"""`dsjax quickstart`: bad input; foreign directories are kept."""

import pytest

from dsjax.cli.main import main
from tests.cli.test_bad_input import files, refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "4294967296"], ["seed", "4294967296", "0..2^32-1"]),
        (["--instances", "0"], ["instances", "0", ">= 1"]),
        (["--workers", "0"], ["workers", "0", "an integer >= 1"]),
        (["--updates", "7"], ["updates", "7", "a multiple of evaluate_every = 25"]),
        (["--config", "no-such.json"], ["study", "no-such.json", "readable study.json"]),
    ],
)
def test_bad_input_names_field_value_and_allowed(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(["quickstart", *arguments], capsys)
    assert all(w in error for w in words), error
    assert list(tmp_path.iterdir()) == []


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
    arguments = ["quickstart", "--out", str(tmp_path / "run"), "--config", str(tmp_path / "config.json")]
    error = refused(arguments, capsys)
    assert all(w in error for w in words), error
    assert files(tmp_path) == before


def test_directories_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    before = files(tmp_path)
    for name, reason in (("file", "this is a file"), ("file/run", "Not a directory"), ("locked", "Is a directory")):
        error = refused(["quickstart", "--out", str(tmp_path / name)], capsys)
        assert all(w in error for w in ("output directory", str(tmp_path / name), reason)), error
    assert files(tmp_path) == before


def test_foreign_directory_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

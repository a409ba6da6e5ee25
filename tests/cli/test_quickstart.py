"""`dsjax quickstart`: bad input; foreign directories are kept."""

import pytest

from dsjax.cli.main import main
from tests.cli.test_bad_input import files, refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "bogus=1"], ["configuration field", "'bogus'", "seed, instances"]),
        (["--set", "rounds=0"], ["rounds", "0", ">= 2"]),
        (["--set", "rounds=1"], ["rounds", "1", ">= 2", "nothing to decide"]),
        (["--digits", "0"], ["digits", "0", "1..64"]),
        (["--set", "temperature=0"], ["temperature", "0.0", "> 0"]),
        (["--set", "temperature=-1"], ["temperature", "-1.0", "> 0"]),
        (["--set", "temperature=Infinity"], ["temperature", "inf", "finite"]),
        (["--set", "cost=NaN"], ["cost", "nan", "finite"]),
        (["--set", "group=1"], ["group", "1", ">= 2", "leave-one-out"]),
        (["--set", "arms=rloo", "group=1"], ["group", "1", ">= 2", "leave-one-out"]),
        (["--set", "arms=foo"], ["arm", "'foo'", "sft-self", "rloo"]),
        (["--arms", "rloo,rloo"], ["arms", "('rloo', 'rloo')", "each arm once"]),
        (["--set", "arms=[]", "rounds=[]"], ["rounds", "[]", "int"]),
        (["--set", "seed=4294967296"], ["seed", "4294967296", "0..2^32-1"]),
        (["--set", "seed=x"], ["seed", "'x'", "int"]),
        (["--set", "seed"], ["set", "'seed'", "name=value"]),
        (["--config", "no-such-file"], ["configuration file", "no-such-file", "readable JSON file"]),
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
        (b'{"bogus": 1}', ["configuration field", "'bogus'", "seed, instances"]),
        (b'{"rounds": 0}', ["rounds", "received 0", ">= 2"]),
        (b'{"digits": 0}', ["digits", "received 0", "1..64"]),
        (b'{"temperature": 0}', ["temperature", "received 0.0", "> 0"]),
        (b'{"arms": "rloo"}', ["arms", "'rloo'", "a list"]),
        (b'{"arms": ["dpo"]}', ["arm", "'dpo'", "sft-self"]),
        (b"[1]", ["configuration file", "config.json", "JSON object"]),
        (b"{", ["configuration file", "config.json", "readable JSON file"]),
        (b"\xff\xfe", ["configuration file", "config.json", "readable JSON file"]),
        (b'{"seed": 1' + b"0" * 5000 + b"}", ["configuration file", "config.json", "readable JSON file"]),
    ],
)
def test_bad_configuration_files(content, words, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    before = files(tmp_path)
    error = refused(
        ["quickstart", "--out", str(tmp_path / "run"), "--config", str(tmp_path / "config.json")],
        capsys,
    )
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


def test_too_many_problems_leave_the_directory_free(tmp_path, capsys):
    """One digit has 100 problems, a sixteenth of them held out; the next, possible, configuration may use the path."""
    arguments = ["quickstart", "--out", str(tmp_path / "run"), "--set", "digits=1"]
    error = refused([*arguments, "evaluation_problems=100", "curve_problems=8"], capsys)
    assert all(w in error for w in ("evaluation problems", "received 100", "at most")), error
    assert not (tmp_path / "run").exists()


def test_foreign_directory_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_configuration_is_refused_and_kept(tmp_path, capsys):
    from dsjax.config import to_dict
    from dsjax.study.quickstart import QuickstartConfig
    from dsjax.training.run_directory import RunDirectory

    directory = RunDirectory(tmp_path / "run", "quickstart", to_dict(QuickstartConfig(seed=3)))
    directory.open()
    directory.close()
    before = (tmp_path / "run" / "config.json").read_bytes()
    assert main(["quickstart", "--out", str(tmp_path / "run"), "--set", "seed=4"]) == 2
    error = capsys.readouterr().err
    assert all(w in error for w in ("seed", "received 4", "3,")), error
    assert (tmp_path / "run" / "config.json").read_bytes() == before

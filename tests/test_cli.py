"""The command line: exit statuses and messages; nothing is overwritten on bad input."""

import json

import pytest

from dsjax.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "--theorem", "T99"], ["theorem", "'T99'", "T1, T2"]),
        (["check", "--instances", "0"], ["instances", "0", "at least 1"]),
        (["quickstart", "--set", "bogus=1"], ["configuration field", "'bogus'", "seed, instances"]),
        (["quickstart", "--set", "rounds=0"], ["rounds", "0", ">= 2"]),
        (["quickstart", "--set", "digits=0"], ["digits", "0", "1..64"]),
        (["quickstart", "--set", "temperature=0"], ["temperature", "0.0", "> 0"]),
        (["quickstart", "--set", "group=1"], ["group", "1", ">= 2", "leave-one-out"]),
        (["quickstart", "--set", "arms=foo"], ["arm", "'foo'", "sft-self", "rloo"]),
        (["quickstart", "--set", "seed=x"], ["seed", "'x'", "int"]),
        (["quickstart", "--set", "seed"], ["set", "'seed'", "name=value"]),
        (["quickstart", "--config", "no-such-file"], ["configuration file", "no-such-file"]),
        (["figures", "--run", "no-such-run"], ["run", "no-such-run", "finished run"]),
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


def test_unknown_command_exits_with_2():
    with pytest.raises(SystemExit) as exit_:
        main(["nonsense"])
    assert exit_.value.code == 2


def test_foreign_directory_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_configuration_is_refused_and_kept(tmp_path, capsys):
    from dsjax.configuration import to_dict
    from dsjax.quickstart import QuickstartConfig
    from dsjax.study import RunDirectory

    directory = RunDirectory(tmp_path / "run", "quickstart", to_dict(QuickstartConfig(seed=3)))
    directory.open()
    directory.close()
    before = (tmp_path / "run" / "config.json").read_bytes()
    assert main(["quickstart", "--out", str(tmp_path / "run"), "--set", "seed=4"]) == 2
    error = capsys.readouterr().err
    assert all(w in error for w in ("seed", "received 4", "3,")), error
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_check_writes_its_report_and_fails_on_a_broken_theorem(tmp_path, capsys, monkeypatch):
    file = tmp_path / "report.json"
    assert main(["check", "--theorem", "T10", "--instances", "4", "--json", str(file)]) == 0
    assert [t["id"] for t in json.loads(file.read_text())["theorems"]] == ["T10"]
    from proofs_check.theorems import t10_accounting

    right = t10_accounting.final_accuracy
    monkeypatch.setattr(t10_accounting, "final_accuracy", lambda p, a, b, rounds: right(p, a, b, rounds) * 1.001)
    assert main(["check", "--theorem", "T10", "--instances", "4"]) == 1

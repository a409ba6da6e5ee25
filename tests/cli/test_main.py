"""How commands begin and end: help, exit statuses, what reaches a pipe."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys

import pytest

from dsjax.cli.main import COMMANDS, main
from tests.cli.plain import assert_plain
from tests.cli.test_bad_input import refused

PATHS = [
    [name, *part]
    for name, command in COMMANDS.items()
    for part in ([[]] if callable(command) else [[name] for name in command])
]


USAGE = ("usage: dsjax [-h] {",)  # the parser breaks no line of usage
FLAG = re.compile(r"--[\w-]+(, --[\w-]+)?( +(\[STR \[STR \.\.\.\]\]|\{[^}]*\}|[A-Z][A-Z=|.,]*(null)?))?")


def test_help_lists_every_command_without_loading_jax():
    """In a process of its own, in a pipe: what is imported is what makes it slow."""
    code = (
        "import sys, dsjax.cli.main as m\n"
        "try:\n    m.main(['--help'])\n"
        "finally:\n    print(sorted({'jax', 'flax', 'scipy', 'matplotlib', 'proofs_check'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert_plain(result.stdout, USAGE)
    assert result.stderr == ""
    assert all(f"• {name} " in result.stdout for name in COMMANDS)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", [[], ["study"], *PATHS], ids=" ".join)
def test_help_is_plain_and_explains_every_flag(path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*path, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert_plain(text, USAGE)
    lines = [line[1:-1].strip() for line in text.partition(" options ")[2].splitlines()]
    flags = [i for i, line in enumerate(lines) if re.match(r"--?[a-z]", line)]
    assert lines[flags[0]].startswith("-h, --help ")
    for begin, end in zip(flags, [*flags[1:], len(lines)], strict=True):
        words = FLAG.sub("", " ".join(lines[begin:end]))
        assert words.partition("(")[0].strip(), f"{lines[begin]}: a flag without help"


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_colours_in_a_terminal_unless_told_otherwise(no_color, coloured, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert ("\x1b[" in capsys.readouterr().out) == coloured


def fails(error: BaseException):
    def command(*_, **__):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted; a run or study keeps"),
        (FloatingPointError("loss is nan"), 1, "loss is nan"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (RuntimeError("odd\nthing"), 1, "a fault of dsjax: RuntimeError: odd thing; --traceback shows all"),
    ],
)
def test_how_a_command_ends(error, status, words, capsys, monkeypatch):
    monkeypatch.setattr("dsjax.cli.main.own_line", lambda error: None)  # this file is a user's own code
    monkeypatch.setattr("dsjax.cli.main._parsed", lambda arguments: fails(error))
    assert main(["check"]) == status
    said = capsys.readouterr().err
    assert said.startswith("dsjax: ")
    assert words in said
    assert said.count("\n") == 1


def test_termination_is_an_end_in_words(capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("dsjax.cli.main._parsed", lambda arguments: lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["check"]) == 143
    assert capsys.readouterr().err.startswith("dsjax: terminated; ")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("shown", [False, True])
def test_a_mistake_in_the_users_own_code(shown, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_process.py").write_text("def process():\n    return [].nothing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["check", "--process", "own_process:process", *["--traceback"] * shown]) == 2
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith("dsjax: process own_process:process: received AttributeError: 'list' object has no")
    assert "own_process.py, line 2); allowed: " in last
    assert ("Traceback" in said, "--traceback" in last) == (shown, not shown)


def test_the_module_is_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dsjax", "check", "--instances", "0"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("dsjax", run_name="__main__")
    assert "instances" in capsys.readouterr().err


def test_the_report_file_is_checked_before_the_work(tmp_path, capsys, monkeypatch):
    import proofs_check

    monkeypatch.setattr(proofs_check, "check", lambda *_, **__: pytest.fail("checked first"))
    refused(["check", "--json", str(tmp_path)], capsys)


def test_check_writes_its_report_and_fails_on_a_broken_theorem(tmp_path, capsys, monkeypatch):
    file = tmp_path / "report.json"
    assert main(["check", "--theorem", "T10", "--instances", "2", "--json", str(file)]) == 0
    assert_plain(capsys.readouterr().out)
    assert [t["id"] for t in json.loads(file.read_text())["theorems"]] == ["T10"]
    from dsjax.evaluation import accounting

    right = accounting.final_accuracy
    monkeypatch.setattr(accounting, "final_accuracy", lambda p, a, b, rounds: right(p, a, b, rounds) * 1.001)
    assert main(["check", "--theorem", "T10", "--instances", "2"]) == 1

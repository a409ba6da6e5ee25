"""Progress in a terminal and elsewhere, numbers, and files that are checked first."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dsjax.cli import terminal
from dsjax.cli.check import _forecast
from dsjax.cli.terminal import Bars, estimate, number, require_files
from dsjax.errors import InputError
from dsjax.statistics import Estimate
from proofs_check.runner import Progress
from tests.cli.plain import assert_plain


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_progress_in_a_pipe_is_a_line_now_and_then(clock, capsys):
    with Bars(Console(), "train", "other") as bars:
        for done in range(101):
            bars("train", done, 100, f"reward {done}")
            clock[0] += 1
        bars("other", 0.5)
    out, error = capsys.readouterr()
    assert out == "", "what is piped is the result alone"
    assert_plain(error)
    lines = error.splitlines()
    assert len(lines) == 20
    assert lines[:2] == ["train: 5 %, reward 5, about 95 s left", "train: 10 %, reward 10, about 90 s left"]
    assert lines[-1] == "train: 100 %, reward 100"


def test_what_is_left_counts_from_where_this_process_began(clock, capsys):
    with Bars(Console(), "train") as bars:
        bars("train", 0.8)
        clock[0] += 10
        bars("train", 0.9)
    assert capsys.readouterr().err == "train: 90 %, about 10 s left\n"


def test_a_quiet_console_has_no_progress(clock, capsys):
    with Bars(Console(quiet=True), "train") as bars:
        clock[0] += 10
        bars("train", 0.5)
    assert capsys.readouterr() == ("", "")


def test_a_check_of_an_own_process_says_beforehand_how_long_it_takes(clock, capsys):
    """In a pipe; the percentage is of the time, since a network takes a hundred times as long as a table."""
    with Bars(Console(), "numeric") as bars:
        hook = _forecast(bars, 1000)
        for left, measured in ((240, False), (232, False), (40, True), (30, True), (0, True)):
            clock[0] += 10
            hook(Progress("T1", 1, 2, None, left, measured))
    out, error = capsys.readouterr()
    assert out == ""
    assert_plain(error)
    assert error.splitlines() == [
        "numeric: 1000 random policies a theorem: about 4 minutes (--quick: less)",
        "numeric: 4 %",
        "numeric: 8 %, about 232 s left",
        "numeric: something of everything has run: about 40 s left",
        "numeric: 43 %, about 40 s left",
        "numeric: 57 %, about 30 s left",
        "numeric: 100 %",
    ]


def test_bars_in_a_terminal_appear_with_the_first_progress(capsys):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"})
    with Bars(console, "train"):
        pass
    assert file.getvalue() == ""
    with Bars(console, "train") as bars:
        bars("train", 30, 100, "3.2/s, reward 0.512")
    text = file.getvalue()
    assert all(words in text for words in ("train", "30 %", "left", "3.2/s, reward 0.512"))
    assert capsys.readouterr().err == ""


def test_brackets_are_brackets(capsys):
    """[low, high] would be markup."""
    console = terminal.terminal()
    console.print("[low, high]: an interval")
    terminal.print_tables([{"title": "[a] title", "columns": ["[b]"], "rows": [["[c]"]]}], console)
    out = capsys.readouterr().out
    assert all(words in out for words in ("[low, high]", "[a]", "[b]", "[c]"))


def test_numbers():
    assert (number(None), number(0.123456), number(2.0, ".3f")) == ("-", "0.1235", "2.000")
    assert estimate(Estimate(0.5)) == "0.5"
    assert estimate(Estimate(0.5, 0.5, 0.5)) == "0.5"
    assert estimate(Estimate(0.5, 0.25, 0.75)) == "0.5\n[0.25, 0.75]"
    assert estimate({"value": 0.5, "low": 0.25, "high": None}) == "0.5"
    assert estimate(None) == "-"


def test_files_of_results_are_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    require_files(tmp_path / "in", json=tmp_path / "a", csv=tmp_path / "b", more=None)
    for read, json, csv in (("in", "a", "link"), ("in", "./a", "a"), ("a", "b", "link")):
        with pytest.raises(InputError, match="another file than"):
            require_files(tmp_path / read, json=tmp_path / json, csv=tmp_path / csv)
    assert [p.name for p in tmp_path.iterdir()] == ["link"]

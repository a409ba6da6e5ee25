"""What commands share: progress, tables and numbers, and files that are checked before the work."""

from __future__ import annotations

import errno
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dsjax.errors import InputError, require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.statistics import Estimate

SECONDS_BETWEEN_LINES = 5.0


def terminal() -> Console:
    """Standard output as it is now; colours only by name, and brackets are brackets."""
    return Console(highlight=False, markup=False)


class Bars:
    """One bar for each named piece of work; where the output is no terminal, now and then a line on standard error.

    Bars appear with the first progress, so that an error in the input is not buried under empty ones.
    """

    def __init__(self, console: Console, *names: str):
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:>3.0f} %"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self._shown = Progress(*columns, *times, console=console)
        self._tasks: dict[str, TaskID] = {
            name: self._shown.add_task(f"{name:<10}", start=False, note="") for name in names
        }
        self._begun: dict[str, tuple[float, float]] = {}  # when, and how far it was then
        self._lines = None if console.is_terminal and not console.is_dumb_terminal else Console(stderr=True)
        self._quiet = console.quiet
        self._last = time.monotonic()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._lines is None:
            self._shown.stop()

    def __call__(self, name: str, done: float, total: float = 1.0, note: str = "") -> None:
        """The piece of work is `done` of `total`; the note stands at the end of its bar."""
        now = time.monotonic()
        since, before = self._begun.setdefault(name, (now, done))
        if self._lines is None:
            self._shown.start()
            self._shown.start_task(self._tasks[name])
            self._shown.update(self._tasks[name], completed=done, total=total, note=note)
        elif not self._quiet and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            left = (now - since) * (total - done) / (done - before) if before < done < total else None
            words = (f"{100 * done / total:.0f} %", note, "" if left is None else f"about {left:.0f} s left")
            self._lines.print(f"{name}: " + ", ".join(filter(None, words)), highlight=False, markup=False)

    def say(self, words: str) -> None:
        """A line that stays: above the bars, or on standard error."""
        if self._lines is None:
            self._shown.console.print(words, markup=False)
        elif not self._quiet:
            self._lines.print(words, highlight=False, markup=False)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """For work that cannot say how far it is: a sign of life in a terminal, nothing elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status(what):
            yield
    else:
        yield


def table(title: str, *columns: str) -> Table:
    """An empty table: text on the left, then numbers; no cell is broken but where it has lines."""
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=any(columns))
    for i, column in enumerate(columns):
        out.add_column(column, justify="right" if i else "left", no_wrap=True)
    return out


def print_tables(tables: list[dict[str, Any]], console: Console) -> None:
    """Tables of a report: {"title", "columns", "rows"}."""
    for data in tables:
        shown = Table(*data["columns"], title=data["title"], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in data["rows"]:
            shown.add_row(*map(Text, row))
        console.print(shown)


def number(x: float | None, form: str = ".4g") -> str:
    """A number, or `-` for none and NaN."""
    return "-" if x is None or math.isnan(x) else format(x, form)


def estimate(e: Estimate | Mapping[str, Any] | None, form: str = ".3g") -> str:
    """An estimate on two lines: its value, and its interval if that is more than a point."""
    from dsjax.statistics import Estimate

    e = e if isinstance(e, Estimate) else Estimate.from_json(e)
    value, _, interval = format(e, form).partition(" ")
    return value if e.low == e.high else f"{value}\n{interval}".strip()


@contextmanager
def writing(field: str, path: Path, what: str = "a file") -> Iterator[None]:
    """An `InputError` that names the field, for whatever keeps a path from being written."""
    try:
        yield
    except OSError as error:
        raise InputError(field, str(path), f"{what} that can be written ({error.strerror})") from error


def require_files(*read: Path, **files: Path | None) -> None:
    """Refuse, before the work, files that cannot be written, two results in one file, and results in a file to read."""
    taken = {path.resolve(): "one that is read" for path in read}
    for field, path in files.items():
        if path is None:
            continue
        with writing(field, path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        require(path.resolve() not in taken, field, str(path), f"another file than {taken.get(path.resolve())}")
        taken[path.resolve()] = f"that of --{field}"


def require_directory(field: str, path: Path | None) -> None:
    """Make a directory, or refuse it, before the work."""
    if path is None:
        return
    with writing(field, path, "a directory"):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass

"""What commands share: progress bars, and paths that are checked before the work."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dsjax.errors import InputError


@contextmanager
def bars(console: Console, work: dict[str, float]) -> Iterator[Callable[[str, float, float], None]]:
    """One progress bar per named piece of work; yields the hook (name, done, total) that moves them.

    They appear with the first progress, so that an error in the input is not buried under empty bars.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    shown = Progress(*columns, TimeElapsedColumn(), console=console)
    tasks = {name: shown.add_task(f"{name:<12}", total=total, start=False) for name, total in work.items()}
    moved: set[str] = set()

    def advance(name: str, done: float, total: float) -> None:
        if not moved:
            shown.start()
        if name not in moved:
            shown.start_task(tasks[name])
            moved.add(name)
        shown.update(tasks[name], completed=done, total=total)

    try:
        yield advance
    finally:
        if moved:
            shown.stop()


@contextmanager
def writing(field: str, path: Path, what: str = "a file") -> Iterator[None]:
    """An `InputError` that names the field, for whatever keeps a path from being written."""
    try:
        yield
    except OSError as error:
        raise InputError(field, str(path), f"{what} that can be written ({error.strerror})") from error


def require_writable(field: str, path: Path | None) -> None:
    """Refuse a file that cannot be written before the work, not after it."""
    if path is None:
        return
    with writing(field, path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def require_directory(field: str, path: Path | None) -> None:
    """Make a directory, or refuse it, before the work."""
    if path is None:
        return
    with writing(field, path, "a directory"):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """{name: value} from `name=value` items; values are JSON where they can be read as such, else text.

    Raises:
      InputError: for an item without `=`.
    """
    data: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError("set", item, "name=value")
        try:
            data[name] = json.loads(value)
        except json.JSONDecodeError:
            data[name] = value
    return data

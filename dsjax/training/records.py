"""Metrics of a run on disk: JSON lines, cut back to a checkpoint on resume; TensorBoard event files as a copy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsjax.errors import InputError
from dsjax.io import parse_json
from dsjax.training.checkpoints import StorageError

Row = dict[str, Any]


class RowFile:
    """A file of JSON lines that is only appended to; nothing of it stays in memory."""

    def __init__(self, path: Path, size: int):
        """Open it with its first `size` bytes; what was written after them is dropped."""
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._file.truncate(min(size, path.stat().st_size))  # never longer: that would be zeros

    def record(self, row: Row) -> None:
        """Append one row.

        Raises:
          StorageError: if it cannot be written; part of it may be there until the next start cuts it off.
        """
        data = memoryview((json.dumps(row, allow_nan=False) + "\n").encode())
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise StorageError(f"{self.path.name} could not be written ({error.strerror})") from error

    def sync(self) -> int:
        """Flush it to disk; returns its size in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def rows(self) -> Iterator[Row]:
        """Its rows, one at a time."""
        with self.path.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    yield parse_json(line)
                except ValueError as error:
                    raise InputError(self.path.name, f"line {number}", f"JSON ({error})") from error

    def close(self) -> None:
        """Close it."""
        self._file.close()


def require_tensorboard() -> None:
    """Refuse `tensorboard` where it is not installed.

    Raises:
      InputError: then.
    """
    try:
        import tensorboard.summary  # noqa: F401
    except ImportError as error:
        raise InputError("tensorboard", True, f"with pip install 'dsjax[tensorboard]' ({error})") from error


class EventFiles:
    """TensorBoard event files of the rows of a `RowFile`: written anew on resume, so no step is there twice."""

    def __init__(self, folder: Path, rows: Iterator[Row]):
        from tensorboard.summary import Writer

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = Writer(str(folder))
        for row in rows:
            self.record(row)

    def record(self, row: Row) -> None:
        """Add the numbers of a row as KIND/[SPLIT/]NAME."""
        prefix = "/".join(row[name] for name in ("kind", "split") if name in row)
        for name, value in row.items():
            if name != "step" and isinstance(value, float):
                self._writer.add_scalar(f"{prefix}/{name}", value, row["step"])

    def close(self) -> None:
        """Write what is left, and close."""
        self._writer.close()

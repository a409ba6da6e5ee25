"""Files that frameworks write, as arrays of format 2: one module a framework, one table of them.

Text and arrays only: JSON lines, CSV, Parquet. A pickle is never opened, it can run code.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.errors import InputError, require
from dsjax.rollouts import format as npz
from dsjax.rollouts.frameworks import nemo_rl, open_instruct, trl, tunix, verl
from dsjax.rollouts.frameworks.base import Framework, Reading, Rows
from dsjax.rollouts.text import EXTRA

FRAMEWORKS: dict[str, Framework] = {
    module.FRAMEWORK.name: module.FRAMEWORK for module in (nemo_rl, open_instruct, tunix, trl, verl)
}
NPZ = "npz"
FORMATS = (NPZ, *FRAMEWORKS)
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


@dataclass(frozen=True)
class Run:
    """What was read, and what to say about it."""

    framework: Framework | None  # None: an .npz file
    step: int | None
    arrays: dict[str, Any]
    said: list[str]


def read(
    path: str | Path, framework: str | None = None, step: int | None = None, reading: Reading | None = None
) -> Run:
    """The arrays of a file, with no check of how they fit together.

    Args:
      path: an .npz file of format 1 or 2, or one that a framework wrote.
      framework: one of `FORMATS`; told by name and fields without it.
      step: of a file that holds several.
      reading: what the user knows and the file does not say.

    Raises:
      InputError: for a file that cannot be read, is of no known framework, or lacks a field.
    """
    path = Path(path)
    require(framework is None or framework in FORMATS, "format", framework, FORMATS)
    head = b"PK" if framework == NPZ or (framework is None and path.suffix == ".npz") else _head(path)
    if framework in (None, NPZ) and head[:2] == b"PK":
        left = npz.unknown(path)
        said = [f"Arrays without a meaning here, not read: {', '.join(left)}"] if left else []
        return Run(None, None, npz.read(path), said)
    require(
        head[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "rollouts file",
        str(path),
        "JSON lines, CSV or Parquet; a pickle is never opened: it can run code",
    )
    rows = _rows(path, head)
    first = next(rows, None)
    if first is None:
        raise InputError("rollouts file", str(path), "at least one row")
    chosen, why = (FRAMEWORKS[framework], f"as --format {framework} says") if framework else told(path, first[1])
    wanted = set(chosen.uses) or None
    numbers, kept = [], []
    for number, row in _first(first, rows):
        numbers.append(number)
        kept.append({name: _compact(x) for name, x in row.items() if wanted is None or name in wanted})
    steps = _steps(chosen, kept)
    found = sorted(set(steps))
    if step is not None:
        require(step in found, "step", step, [str(n) for n in found] or f"none: {chosen.title}'s rows have no step")
    elif len(found) > 1:
        raise InputError("step", f"none, of a file with {len(found)}", f"one of them: {_listed(found)}")
    if found:
        step = found[0] if step is None else step
        ours = [i for i, n in enumerate(steps) if n == step]
        numbers, kept = [numbers[i] for i in ours], [kept[i] for i in ours]
    written = chosen.read(Rows(chosen.title, kept, numbers), reading or Reading())
    at = "" if step is None else f", step {step}"
    said = [f"Read as {chosen.title} {why}: {len(kept)} rows{at}.", *written.said]
    said += [f"Not in the files of {chosen.title}: {name} ({what})." for name, what in chosen.lacks.items()]
    return Run(chosen, step, written.arrays, said)


def _head(path: Path) -> bytes:
    with open_checked(path) as file:
        return file.read(4)


def open_checked(path: Path) -> Any:
    """The file, opened to read bytes; refuses by name what holds pickles."""
    require(path.suffix not in _PICKLES, "rollouts file", str(path), "a pickle is never opened: it can run code")
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError("rollouts file", str(path), f"a readable file ({error.strerror or error})") from error


def told(path: Path, row: Mapping[str, Any]) -> tuple[Framework, str]:
    """(framework, how it was told) by the fields of the first row; the name of the file is a second sign."""
    fits = [f for f in FRAMEWORKS.values() if all(name in row for name in f.told_by)]
    if len(fits) == 1:
        named = ", and its name" if re.fullmatch(fits[0].file, path.name) else ""
        return fits[0], f"by its fields {', '.join(fits[0].told_by)}{named}"
    known = "; ".join(f"{f.name} has {', '.join(f.told_by)} and is {f.writes}" for f in FRAMEWORKS.values())
    received = f"{path.name} with the fields {', '.join(map(str, row)) or 'none'}"
    raise InputError("rollouts file", received, f"one framework's: {known}")


def _compact(x: Any) -> Any:
    """A list of numbers as an array, a fifth of its size; all else as it is."""
    if not isinstance(x, list):
        return x
    try:
        found = np.asarray(x)
    except (ValueError, OverflowError):  # of lists of different lengths; integers of many digits
        return x
    return found if found.dtype.kind in "iufb" else x


def _first(first: Any, rows: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rows


def _listed(numbers: list[int]) -> str:
    words = [str(n) for n in numbers]
    return ", ".join(words if len(words) <= 8 else [*words[:4], "..", *words[-2:]]) + " (--step)"


def _steps(framework: Framework, rows: list[dict[str, Any]]) -> list[int]:
    """The step of each row; none where the rows do not say."""
    name = framework.step
    if name is None or not all(row.get(name) not in (None, "None", "") for row in rows):
        return []
    try:
        return [int(float(row[name])) for row in rows]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(name, str(error), "an integer in every row") from error


def _rows(path: Path, head: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, its fields) of a file of any of the three kinds."""
    if head == b"PAR1":
        return _parquet(path)
    return _csv(path) if path.suffix == ".csv" else _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_checked(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError("rollouts file", f"{path}, line {number}", f"JSON lines ({error})") from error
            require(isinstance(row, dict), "rollouts file", f"{path}, line {number}", "an object {..} on each line")
            yield number, row


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)  # arrays of a trajectory are longer than the usual limit
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), 1):
                whole = None not in row and None not in row.values()
                require(whole, "rollouts file", f"{path}, row {number}", "as many fields as the first line has names")
                yield number, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError("rollouts file", str(path), f"CSV with a line of names ({error})") from error


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError("rollouts file", str(path), f"a file of another kind, or after {EXTRA}") from error
    try:
        number = 0
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        raise InputError("rollouts file", str(path), f"a readable Parquet file ({error})") from error


__all__ = ["FORMATS", "FRAMEWORKS", "NPZ", "Framework", "Reading", "Run", "read"]

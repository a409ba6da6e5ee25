"""Files that are there whole or not at all, and readers that say which file is wrong and how."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write next to the target, flush to disk, rename: a reader sees the old file or the whole new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # as an ordinary new file; mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any, indent: int | None = 1) -> None:
    """Strict JSON (no NaN), written atomically; without `indent` as short as can be."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(data, indent=indent, separators=separators, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is there twice has no one value."""
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return out


def read_json(path: Path, field: str = "file", what: str = "a readable JSON file") -> Any:
    """The data of a JSON file, packed with gzip if its name ends in .gz.

    Args:
      path: of the file.
      field: what the file is to the user, for the error.
      what: what it should be.

    Raises:
      InputError: if it cannot be read, is packed otherwise or not to its end, is not JSON, or has a key twice.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return json.loads(data, object_pairs_hook=_once)
    except OSError as error:
        raise InputError(field, str(path), f"{what} ({error.strerror or error})") from error
    except (EOFError, ValueError, zlib.error) as error:
        raise InputError(field, str(path), f"{what} ({error})") from error
    except RecursionError as error:
        raise InputError(field, str(path), f"{what} (nested too deeply)") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays as a compressed .npz, written atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())

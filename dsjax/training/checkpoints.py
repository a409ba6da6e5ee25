"""Parameters on disk: one MessagePack file, written atomically, read without executing anything from it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from flax import serialization

from dsjax.errors import InputError
from dsjax.policies.base import Params


def write_atomically(path: Path, data: bytes) -> None:
    """Write next to the target, flush to disk, rename: a reader sees the old file or the whole new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_params(path: Path, params: Params) -> None:
    """Write a parameter pytree."""
    write_atomically(path, serialization.to_bytes(params))


def load_params(path: Path, like: Params) -> Params:
    """Read a parameter pytree with the structure of `like`.

    Raises:
      InputError: if the file is damaged or holds another structure.
    """
    try:
        return serialization.from_bytes(like, path.read_bytes())
    except (ValueError, KeyError, OSError) as error:
        raise InputError("parameters", path.name, f"a complete file written by this configuration ({error})") from error

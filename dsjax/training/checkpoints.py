"""Parameters on disk: one MessagePack file, written atomically, read without executing anything from it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import serialization

from dsjax.errors import InputError, require
from dsjax.policies.base import Params


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


def save_params(path: Path, params: Params) -> None:
    """Write a parameter pytree."""
    write_atomically(path, serialization.to_bytes(params))


def load_params(path: Path, like: Params) -> Params:
    """Read a parameter pytree with the structure of `like`.

    Raises:
      InputError: if the file is damaged or holds another structure.
    """
    try:
        params = serialization.from_bytes(like, path.read_bytes())
        shapes = [[np.shape(x) for x in jax.tree.leaves(tree)] for tree in (params, like)]
    # A damaged file can decode to anything, and then fail wherever it is first used as what it should be.
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError) as error:
        raise InputError("parameters", path.name, f"a complete file written by this configuration ({error})") from error
    require(shapes[0] == shapes[1], "parameters", path.name, f"arrays of shapes {shapes[1]}")
    return params

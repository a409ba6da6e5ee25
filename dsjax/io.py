"""Files that are there whole or not at all, and readers that say which file is wrong and how."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.errors import InputError, require

MOST_BYTES = 2**30  # of a JSON file, unpacked
MOST_DEEP = 100  # objects and lists inside of each other
MOST_PACKED = 1032  # times that deflate can make zeros smaller
NAME = re.compile(r"[\w=+-][\w.=+-]{0,99}", re.ASCII)
ALPHABET = "letters, digits and _.=+-, not starting with a dot, at most 100 of them"


def require_name(field: str, value: Any) -> None:
    """Refuse a name that could lead out of the folder that it belongs to: more than one part of `ALPHABET`."""
    require(isinstance(value, str) and NAME.fullmatch(value) is not None, field, value, ALPHABET)


def inside(folder: Path, name: str, field: str = "name of a file") -> Path:
    """The file or folder of that name in a folder, for names that come from data.

    Args:
      folder: where.
      name: parts of `ALPHABET`, joined by `/`.
      field: what the name is to the user, for the error.

    Raises:
      InputError: for any other name.
    """
    parts = name.split("/") if isinstance(name, str) else [name]
    for part in parts:
        require(isinstance(part, str) and NAME.fullmatch(part) is not None, field, name, f"{ALPHABET}, joined by /")
    return folder.joinpath(*parts)


def require_memory(field: str, value: Any, needed: float, most: float | None = None) -> None:
    """Refuse, before the work, what takes more memory than this machine has.

    Args:
      field: what asks for it.
      value: of the field.
      needed: bytes that it takes at least.
      most: bytes that there are; by default the memory of this machine.

    Raises:
      InputError: then, with both numbers.
    """
    most = memory_of_machine() if most is None else most
    if needed > most:
        allowed = f"what takes at most {size_of(most)} of memory, not at least {size_of(needed)}"
        raise InputError(field, value, allowed)


def memory_of_machine() -> float:
    """Bytes; without limit where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return float("inf")


def size_of(data: float) -> str:
    """Bytes for people, such as `7.5 TB`."""
    if data >= 1000**7:
        return "more than 1000 EB"
    power = next((n for n in range(6, 0, -1) if data >= 1000**n), 0)
    return f"{data / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write next to the target, flush to disk, rename: a reader sees the old file or the whole new one.

    Raises:
      OSError: if it cannot be written, naming it.
    """
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write_and_rename(path: Path, data: bytes) -> None:
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


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MOST_DEEP + 1):
        inner = (x for found in level for x in (found.values() if isinstance(found, dict) else found))
        level = [x for x in inner if isinstance(x, dict | list)]
        if not level:
            return False
    return True


def parse_json(text: str | bytes) -> Any:
    """Data of strict JSON in UTF-8: each key once, no NaN or infinity by name, at most `MOST_DEEP` levels.

    Raises:
      ValueError: for anything else.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if isinstance(data, dict | list) and _is_deep(data):
        raise ValueError("nested too deeply")
    return data


@contextmanager
def _readable(field: str, path: Path, what: str) -> Iterator[None]:
    """Whatever keeps a file from being read as an `InputError` that names it."""
    broken = (ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, TypeError, SyntaxError, OverflowError)
    packed = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(field, str(path), f"{what} ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(field, str(path), f"{what} that fits into memory") from error
    except (*broken, *packed) as error:
        raise InputError(field, str(path), f"{what} ({error})") from error


@contextmanager
def interpreted(field: str, path: Path, what: str) -> Iterator[None]:
    """For work that only looks through the data of a file: what it does not find there is the file's fault.

    Raises:
      InputError: then, naming the file.
    """
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        missing = f"without {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise InputError(field, str(path), f"{what} (this one is damaged, or of another version: {missing})") from error


def read_json(path: Path, field: str = "file", what: str = "a readable JSON file") -> Any:
    """The data of a JSON file, packed with gzip if its name ends in .gz.

    Args:
      path: of the file.
      field: what the file is to the user, for the error.
      what: what it should be.

    Raises:
      InputError: if it cannot be read, is larger than `MOST_BYTES`, is packed otherwise or not to its end, or is not
        what `parse_json` takes.
    """
    with _readable(field, path, what):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"larger than {size_of(MOST_BYTES)}")
        return parse_json(data)


def read_rows(path: Path, field: str = "file") -> list[dict[str, Any]]:
    """The rows of a file of JSON lines.

    Raises:
      InputError: if it cannot be read, or a line is no object.
    """
    rows, number = [], 0
    with _readable(field, path, "a file of JSON lines"), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(rows[-1], dict):
                raise ValueError(f"line {number}: no object with named fields")
    return rows


def array_names(path: Path, field: str = "file") -> list[str]:
    """Names of all members of an .npz file; errors as for `read_arrays`."""
    return _archived(path, field, lambda archive: [name for name, _ in _members(archive)])


def read_arrays(path: Path, field: str = "file", names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, of numbers or text alone: nothing in it is ever run.

    Args:
      path: of the file.
      field: what the file is to the user, for the error.
      names: those to read; the others are not opened.

    Raises:
      InputError: if it cannot be read, is no .npz file, has a name twice, or announces more than fits into memory;
        naming the array, if that is none, is pickled, or has another size than it announces.
    """

    def read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
        wanted = [(name, member) for name, member in _members(archive) if names is None or name in names]
        require_memory(field, str(path), sum(member.file_size for _, member in wanted))
        return {name: _array(archive, name, member, path) for name, member in wanted}

    return _archived(path, field, read)


def _archived(path: Path, field: str, found: Callable[[zipfile.ZipFile], Any]) -> Any:
    with _readable(field, path, "a readable .npz file"), open(path, "rb") as file:
        require(zipfile.is_zipfile(file), field, str(path), "an .npz file, as numpy.savez writes it")
        with zipfile.ZipFile(file) as archive:
            return found(archive)


def _members(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    members = [(member.filename.removesuffix(".npy"), member) for member in archive.infolist()]
    twice = [name for name, count in Counter(name for name, _ in members).items() if count > 1]
    if twice:
        raise ValueError(f"the array {twice[0]!r} twice")
    return members


def _array(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    received = f"an array of {path} that cannot be read"
    if not member.filename.endswith(".npy"):
        raise InputError(name, received, "an array, as numpy.savez writes it")
    if member.file_size > MOST_PACKED * (member.compress_size + 1):
        raise InputError(name, received, f"what {member.compress_size} packed bytes can hold, not {member.file_size}")
    data = io.BytesIO(archive.read(member))
    try:
        version = np.lib.format.read_magic(data)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in header:
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        shape, _, dtype = header[version](data)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        there, announced = len(data.getbuffer()) - data.tell(), dtype.itemsize
        for n in shape:  # of any size, as Python's integers
            announced *= n
        if min(shape, default=0) < 0 or announced != there:
            raise ValueError(f"announces {size_of(abs(announced))} in shape {shape}, and holds {size_of(there)}")
        data.seek(0)
        return np.lib.format.read_array(data, allow_pickle=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, OverflowError) as error:
        raise InputError(name, received, f"plain numbers, stored without pickle ({error})") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays as a compressed .npz, written atomically.

    Raises:
      ValueError: for an array of objects, which only pickle could store, and which nothing here would read.
    """
    found: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    objects = [name for name, array in found.items() if array.dtype.hasobject]
    if objects:
        raise ValueError(f"arrays of objects cannot be stored: {', '.join(objects)}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **found)  # an early NumPy 2 would store an argument `allow_pickle` as one more array
    write_atomically(path, buffer.getvalue())

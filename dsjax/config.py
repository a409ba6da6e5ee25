"""Configuration: frozen dataclasses that validate themselves and read and write plain JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dsjax.errors import InputError, require
from dsjax.io import read_json

T = TypeVar("T")


def require_int(field: str, value: Any, low: int, why: str = "") -> None:
    """Raise `InputError` unless value is an integer >= low."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= low
    require(ok, field, value, f"an integer >= {low}" + (f" ({why})" if why else ""))


def require_range(field: str, value: Any, low: int, high: int, why: str = "") -> None:
    """Raise `InputError` unless value is an integer of low..high."""
    ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    require(ok, field, value, f"{low}..{high}" + (f", {why}" if why else ""))


def require_seed(field: str, value: Any) -> None:
    """Raise `InputError` unless value is an integer of 32 bits: JAX would drop the others."""
    ok = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32
    require(ok, field, value, "0..2^32-1")


def is_finite(value: Any) -> bool:
    """Whether value is a number of Python or NumPy that is finite as a float."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and bool(abs(value) <= sys.float_info.max)


def require_positive(field: str, value: Any) -> None:
    """Raise `InputError` unless value is a finite number > 0."""
    require(is_finite(value) and value > 0, field, value, "a finite number > 0")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data of a configuration, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], data: Mapping[str, Any], path: str = "") -> T:
    """A configuration from plain data; missing fields keep their defaults.

    The mapping `FORMER_NAMES` of a class, if it has one, has the names that fields had in older files.

    Raises:
      InputError: for an unknown field, a missing one that has no default, a value of the wrong type, or one that the
        class rejects.
    """
    require(isinstance(data, Mapping), path or "configuration", data, "an object with named fields")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    former = getattr(cls, "FORMER_NAMES", {})
    for given, value in data.items():
        name = former.get(given, given)
        where = f"{path}.{name}" if path else name
        if name not in fields:
            raise InputError("configuration field", where, fields)
        values[name] = _convert(hints[name], value, where)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in values:
            raise InputError(f"{path}.{name}" if path else name, "nothing", "a value: it has no default")
    return cls(**values)


def require_types(config: Any) -> None:
    """Raise `InputError` with the field's name unless each field of a configuration holds what its type says.

    For `__post_init__`: a configuration made in Python is refused in the words of one from a file.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        _convert(hints[f.name], getattr(config, f.name), f.name)


def from_text(cls: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """Fields as a command line gives them, for `from_dict`: JSON, but text where a field is text, and `a,b` is a list.

    Raises:
      InputError: for an unknown field.
    """
    hints = typing.get_type_hints(cls)
    named = {field_of(cls, given): text for given, text in texts.items()}
    return {name: _read(hints[name], text) for name, text in named.items()}


def field_of(cls: type, given: str) -> str:
    """The name of a field of a configuration, from that or from its former one.

    Raises:
      InputError: if there is no such field.
    """
    name = getattr(cls, "FORMER_NAMES", {}).get(given, given)
    names = [f.name for f in dataclasses.fields(typing.cast(Any, cls))]
    require(name in names, "configuration field", given, names)
    return name


def _read(hint: Any, text: str) -> Any:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in kinds and text in ("null", "None"):
        return None
    kind = next(k for k in kinds if k is not type(None))
    if kind is str or typing.get_origin(kind) is typing.Literal:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text.split(",") if typing.get_origin(kind) is tuple else text


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else from_dict(typing.cast(type, hint), value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        require(value in args, where, value, [str(a) for a in args])
        return value
    if origin is dict:
        require(isinstance(value, dict), where, value, "an object with named fields")
        return dict(value)
    if origin is tuple:
        require(isinstance(value, list | tuple), where, value, "a list")
        return tuple(_convert(args[0], item, where) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        # JSON as Python reads it has NaN, Infinity and integers of any size.
        require(number and abs(value) <= sys.float_info.max, where, value, "a finite number")
        return float(value)
    require(isinstance(value, hint) and (number or hint is not int), where, value, _WORDS.get(hint, hint.__name__))
    return value


_WORDS = {int: "an integer", bool: "true or false", str: "text"}


def load(cls: type[T], file: str | Path) -> T:
    """A configuration from a JSON file.

    Raises:
      InputError: if the file cannot be read, is not JSON, or has a bad field.
    """
    return from_dict(cls, read_json(Path(file), "configuration file"))


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """(field, value in a, value in b) for every leaf where two plain configurations differ."""
    out: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys([*a, *b]):
        where = f"{path}.{name}" if path else name
        x, y = a.get(name), b.get(name)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            out += differences(x, y, where)
        elif x != y:
            out.append((where, x, y))
    return out

"""From command lines to settings: a flag for each field of a configuration, `--option name=value`, `--set`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from dsjax.errors import require

Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE", help_behavior_hint="(repeatable)")]
List = Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(repeatable)")]


def fields_of(configuration: str) -> Any:
    """The type of a parameter of a command that has one flag for each field of a configuration.

    Args:
      configuration: the dataclass, as `module:class`; imported for its own command alone.
    """
    flags = functools.partial(_flags, configuration)
    return Annotated[Any, Configuration(configuration), tyro.conf.arg(name="", constructor_factory=flags)]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Says in the signature of a command where its settings are defined."""

    name: str

    def load(self) -> type:
        """The dataclass."""
        module, _, name = self.name.partition(":")
        return getattr(importlib.import_module(module), name)


def _flags(configuration: str) -> type:
    """A dataclass with the fields of another one and its docstring, each a text that may be absent."""
    source = Configuration(configuration).load()
    hints = typing.get_type_hints(source)
    fields = []
    for f in dataclasses.fields(source):
        text = tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=_metavar(hints[f.name]),
            instance_from_str=lambda values: values[0],
            is_instance=lambda value: value is None or isinstance(value, str),
            str_from_instance=lambda value: [str(value)],
        )
        default = "" if f.default is dataclasses.MISSING else f"(default: {json.dumps(f.default)})"
        hint = Annotated[Any, text, tyro.conf.arg(help_behavior_hint=default)]
        fields.append((f.name, hint, dataclasses.field(default=None)))
    return dataclasses.make_dataclass("Flags", fields, namespace={"__doc__": source.__doc__})


def _metavar(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return "|".join("null" if kind is type(None) else _metavar(kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if typing.get_origin(hint) is tuple:
        return f"{_metavar(typing.get_args(hint)[0])},.."
    return "{true,false}" if hint is bool else getattr(hint, "__name__", "value").upper()


def chosen(flags: Any, source: type) -> dict[str, Any]:
    """The fields that were given, for `dsjax.config.from_dict`.

    Args:
      flags: what the command line made of them; None for none.
      source: the configuration.
    """
    from dsjax.config import from_text

    return from_text(source, {name: text for name, text in vars(flags or object).items() if isinstance(text, str)})


def pairs(field: str, items: Sequence[str]) -> dict[str, str]:
    """{name: value} from `name=value` items.

    Raises:
      InputError: for an item without `=`, or a name that is there twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        require(bool(name and equals), field, item, "name=value")
        require(name not in found, field, item, f"each name once (also {name}={found.get(name)})")
        found[name] = value
    return found


def options(objective: str | None, items: Sequence[str]) -> dict[str, Any]:
    """Options of an objective from `name=value` items: numbers, true, false, null or words, as its signature says.

    Raises:
      InputError: for an unknown objective or option, or a value of another type.
    """
    found: dict[str, Any] = {}
    for name, text in pairs("option", items).items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    if objective is None:
        require(not found, "option", found, "an objective to which it belongs")
        return found
    from dsjax.objectives import resolve

    hints = _hints_of(resolve(objective)) if found else {}
    for name, value in found.items():
        hint = hints.get(name)
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        told = typing.get_args(hint) if union else (hint,)
        kinds = [kind for kind in _SCALARS if kind in told] or list(_SCALARS)
        allowed = " or ".join(_SCALARS[kind] for kind in kinds)
        require(any(_is(kind, value) for kind in kinds), f"option {name}", value, allowed)
    resolve(objective, found)
    return found


_SCALARS = {float: "a finite number", int: "an integer", bool: "true or false", str: "a word", type(None): "null"}


def _is(kind: type, value: Any) -> bool:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _hints_of(function: Any) -> dict[str, Any]:
    """{option: type} of what `dsjax.objectives.resolve` returns; nothing where a user's own function does not say."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        hints = typing.get_type_hints(function)
        packed = [typing.get_args(hint)[0] for hint in hints.values() if typing.get_origin(hint) is typing.Unpack]
        return {**hints, **{name: hint for kind in packed for name, hint in typing.get_type_hints(kind).items()}}
    except (NameError, TypeError):
        return {}


def gathered(arguments: Sequence[str], command: Callable[..., Any]) -> list[str]:
    """The arguments of a command with each flag once, for a parser that would take the last one alone.

    Values of a list add up, wherever they stand; a list of `name=value` ends at the first item without `=`. Other
    flags may not be repeated. `--set name=value` is `--option name=value` where there are options, else
    `--name value`.

    Raises:
      InputError: for a flag that is there twice, or a setting that is none.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    lists = {name: hint for name, hint in hints.items() if typing.get_origin(_bare(hint)) is tuple}
    left, out, values, seen = deque(arguments), [], {}, set()

    def once(name: str) -> None:
        require(name not in seen, f"--{name.replace('_', '-')}", "this flag twice", "once")
        seen.add(name)

    while left:
        item = left.popleft()
        if item == "--":
            out += [item, *left]
            break
        flag, equals, value = item.removeprefix("--").partition("=")
        name = flag.replace("-", "_")
        if name == "set" and "option" in lists:
            name = "option"
        if not item.startswith("--") or name not in (*lists, "set"):
            if item.startswith("--"):
                once(name.removeprefix("no_"))
            out.append(item)
            continue
        got = [value] if equals else []
        named = name == "set" or lists[name] == Pairs
        while left and not left[0].startswith("--") and ("=" in left[0] or not (named and got)):
            got.append(left.popleft())
        require(bool(got), f"--{flag}", "nothing", "name=value" if named else "at least one value")
        values.setdefault(name, []).extend(got)
    for name, text in pairs("set", values.pop("set", ())).items():
        once(name)
        out.append(f"--{_known(name, hints)}={text}")
    for name, got in values.items():
        out += [f"--{name.replace('_', '-')}", *got]
    return out


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _known(name: str, hints: Mapping[str, Any]) -> str:
    """The setting, if the command has it."""
    from dsjax.config import field_of

    for hint in hints.values():
        for note in getattr(hint, "__metadata__", ()):
            if isinstance(note, Configuration):
                return field_of(note.load(), name)
    return name


def deferred(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The command with its call put off, so that a parser sees its signature and help but not its errors."""

    @functools.wraps(command)
    def bound(*arguments: Any, **named: Any) -> Callable[[], int]:
        return functools.partial(command, *arguments, **named)

    return bound

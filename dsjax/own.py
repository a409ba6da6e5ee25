"""The user's own code: found by `module:function`, called, and blamed by the line of the user's file."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dsjax.errors import InputError, require

MOST_WORDS = 300  # characters of another library's message
NAMED = "module:function with the module's full name"


@cache
def _installed() -> tuple[Path, ...]:
    """Folders of this library, of Python and of what is installed."""
    here = Path(__file__).resolve().parent
    paths = sysconfig.get_paths()
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return here, here.parent / "proofs_check", *(Path(paths[kind]).resolve() for kind in kinds)


def _is_own(file: str) -> bool:
    path = Path(file).resolve()
    return path.is_file() and not any(path.is_relative_to(folder) for folder in _installed())


def own_line(error: BaseException) -> str | None:
    """The last line of the user's own code on the way to an error, as `FILE, line N`; None where there is none."""
    if isinstance(error, SyntaxError) and error.filename and _is_own(error.filename):
        return f"{error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_own(frame.filename):
            return f"{frame.filename}, line {frame.lineno}"
    return None


def told(error: BaseException) -> str:
    """What an error is, on one line."""
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, SystemExit):
        words = f"it asked Python to exit with {error.code!r}"
    words = " ".join(words.split())
    return f"{type(error).__name__}: {words if len(words) <= MOST_WORDS else f'{words[:MOST_WORDS]} ..'}"


@contextmanager
def guarded(field: str, name: str, allowed: str) -> Iterator[None]:
    """Whatever the user's own code raises, `sys.exit` too, as an `InputError` that names it and its line.

    Args:
      field: what it is to the user, such as `process`.
      name: `module:function`.
      allowed: what it should do.

    Raises:
      InputError: with the error as its cause; one that this library raised below keeps its words.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        line = own_line(error)
        where = "" if line is None else f" ({line})"
        if isinstance(error, InputError):
            more = where if where not in error.allowed else ""
            raise InputError(f"{field} {name}: {error.field}", error.received, error.allowed + more) from error
        raise InputError(f"{field} {name}", Told(told(error) + where), allowed) from error


class Told(str):
    """Words in an `InputError` that are printed as they are, without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def import_name(field: str, name: Any) -> Any:
    """What `module:name` names.

    Raises:
      InputError: if the module cannot be found, or raises, or has no such name.
    """
    module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    plain = all(part.isidentifier() for part in (*module.split("."), attribute))
    require(bool(colon) and plain, field, name, NAMED)
    try:
        with guarded(field, name, "a module that can be imported"):
            found = importlib.import_module(module)
    except InputError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{module}.".startswith(f"{missing.name}."):
            raise InputError(field, name, f"module:function that can be imported ({missing})") from missing
        raise
    require(
        hasattr(found, attribute), field, name, f"module:function that can be imported ({module} has no {attribute})"
    )
    return getattr(found, attribute)


def import_function(field: str, name: Any) -> Callable[..., Any]:
    """The callable that `module:function` names; errors as for `import_name`, and for what cannot be called."""
    function = import_name(field, name)
    require(callable(function), field, name, "module:function that names a callable")
    return function


def call(field: str, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A function of these arguments; errors as of `guarded`, if it is none of this library."""
    if (getattr(function, "__module__", None) or "").partition(".")[0] in ("dsjax", "proofs_check"):
        return function(*arguments, **named)
    with guarded(field, name, "a function that returns"):
        return function(*arguments, **named)

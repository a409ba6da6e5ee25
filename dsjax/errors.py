"""Errors that are meant for the person at the keyboard, not for a stack trace."""

from __future__ import annotations

from collections.abc import Iterable

MOST_SHOWN = 500  # characters of a value


def shown(value: object) -> str:
    """The value as text on one line, its beginning if it is long; whatever its own `repr` does."""
    try:
        text = " ".join(repr(value).splitlines())
    except Exception as error:  # an integer of thousands of digits, or an object of the user's
        text = f"a value of type {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} .. ({len(text)} characters)"


class InputError(ValueError):
    """Something the user gave cannot be used: names the field, the value received and the values allowed.

    The command line prints it without a traceback and ends with exit status 2.

    Attributes:
      field: what the user calls it.
      received: the value.
      allowed: in words, or the allowed values.
    """

    def __init__(self, field: str, received: object, allowed: str | Iterable[str]):
        self.field = field
        self.received = received
        self.allowed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        text = f"{field}: received {shown(received)}; allowed: {self.allowed}"
        super().__init__(" ".join(text.splitlines()))  # one line, whatever the user's words are

    def __reduce__(self) -> tuple[type[InputError], tuple[object, ...]]:
        return type(self), (self.field, self.received, self.allowed)  # for pickle, between processes


def require(condition: bool, field: str, received: object, allowed: str | Iterable[str]) -> None:
    """Raise `InputError(field, received, allowed)` unless `condition` holds."""
    if not condition:
        raise InputError(field, received, allowed)

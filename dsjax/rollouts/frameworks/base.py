"""What the readers of the frameworks share: rows of a file as checked columns, and what a reader makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsjax.errors import InputError, require
from dsjax.rollouts.text import Tokens

KINDS = {"i": "token ids", "f": "numbers", "b": "numbers 0 and 1"}


@dataclass(frozen=True)
class Reading:
    """What the user says about a file beyond its rows."""

    tokens: Tokens | None = None  # the tokenizer, where text must become tokens
    end: str | None = None  # the token by which answers end, where the text leaves it out
    max_tokens: int | None = None  # the run's limit of an answer, where a file does not say what was cut off
    rewards: Mapping[str, float] = field(default_factory=dict)  # {column: weight}


@dataclass(frozen=True)
class Written:
    """A file as arrays of format 2, but for what it lacks."""

    arrays: dict[str, np.ndarray]
    said: list[str]  # sentences: what was taken for granted


@dataclass(frozen=True)
class Framework:
    """One row of the table of frameworks; `read` makes arrays of rows that are all of one step."""

    name: str  # of --format
    title: str
    file: str  # regular expression of the names of its files
    told_by: tuple[str, ...]  # fields that no other framework's files have together
    uses: tuple[str, ...]  # fields that are read where they are there; others are dropped at once
    step: str | None  # field of the step, where a file may hold several
    writes: str  # the switch that writes these files
    lacks: Mapping[str, str]  # {array: what there is in its place, or the switch that would write it}
    read: Callable[[Rows, Reading], Written]


class Rows:
    """Columns of a file; errors name the field and the row, counted from 1."""

    def __init__(self, title: str, rows: Sequence[Mapping[str, Any]], numbers: Sequence[int] | None = None):
        self.title, self.rows = title, rows
        self.numbers_in_file = range(1, len(rows) + 1) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.rows)

    def has(self, name: str) -> bool:
        """Whether any row has a value."""
        return any(row.get(name) is not None for row in self.rows)

    def values(self, name: str) -> list[Any]:
        """As they are; every row must have one."""
        for number, row in zip(self.numbers_in_file, self.rows, strict=True):
            require(
                row.get(name) is not None, name, f"nothing in row {number}", f"a field of every row of {self.title}"
            )
        return [row[name] for row in self.rows]

    def numbers(self, name: str) -> np.ndarray:
        """f64[B]."""
        out = np.empty(len(self))
        for i, x in enumerate(self.values(name)):
            try:
                out[i] = x
            except (TypeError, ValueError) as error:
                raise InputError(name, f"{_short(x)} in row {self.numbers_in_file[i]}", "a number") from error
        return out

    def texts(self, name: str) -> list[str]:
        """Words."""
        for number, x in zip(self.numbers_in_file, self.values(name), strict=True):
            require(isinstance(x, str), name, f"{_short(x)} in row {number}", "a text")
        return self.values(name)

    def lists(self, name: str, kind: str, like: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """One array a row.

        Args:
          name: of the field.
          kind: `i` integers, `f` numbers, `b` a mask.
          like: lists of the same lengths.
        """
        out = []
        for i, x in enumerate(self.values(name)):
            found = _array(x)
            whole = found is not None and found.ndim == 1 and found.dtype.kind in ("iufb" if kind in "fb" else "iu")
            if whole and kind != "f":
                assert found is not None
                fits = (found == 0) | (found == 1) if kind == "b" else (found >= 0) & (found < 2**31)
                whole = bool(fits.all())
            require(
                whole or (found is not None and found.shape == (0,)),
                name,
                f"{_short(x)} in row {self.numbers_in_file[i]}",
                f"a list of {KINDS[kind]}",
            )
            assert found is not None
            if like is not None:
                received = f"{len(found)} entries in row {self.numbers_in_file[i]}"
                require(len(found) == len(like[i]), name, received, f"one for each of its {len(like[i])} tokens")
            out.append(found.astype({"i": np.int64, "f": np.float64, "b": bool}[kind]))
        return out


def _short(x: Any) -> str:
    text = repr(x.tolist() if isinstance(x, np.ndarray) else x)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _array(x: Any) -> np.ndarray | None:
    """A list, or the text of one as CSV files have it; None for anything else. Text is data: nothing is evaluated."""
    if isinstance(x, str):
        try:
            x = json.loads(x.replace("nan", "NaN").replace("inf", "Infinity"))
        except (ValueError, RecursionError):
            return None
    if not isinstance(x, list | np.ndarray):
        return None
    try:
        return np.asarray(x)
    except (ValueError, OverflowError):
        return None


def padded(lists: Sequence[np.ndarray], width: int | None = None) -> np.ndarray:
    """[B, S] of lists of different lengths, 0 behind their ends."""
    width = max([1, *map(len, lists)]) if width is None else width
    out = np.zeros((len(lists), width), lists[0].dtype if lists else np.float64)
    for row, x in zip(out, lists, strict=True):
        row[: len(x)] = x[:width]
    return out


def numbered(keys: Iterable[Any]) -> np.ndarray:
    """i[B]: equal keys have equal numbers, in the order in which they appear."""
    known: dict[Any, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)


def answers(tokens: Sequence[np.ndarray], drawn: Sequence[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """`tokens` and masks without a decision yet; all tokens are drawn unless said otherwise."""
    drawn = [np.ones(len(x), bool) for x in tokens] if drawn is None else drawn
    mask = padded(drawn)
    require(bool(mask.any()), "rows", "no drawn token", "at least one")
    return {"tokens": padded(tokens).astype(np.int32), "sample_mask": mask, "decision_mask": np.zeros_like(mask)}


def from_text(texts: Sequence[str], title: str, limit: str, reading: Reading) -> Written:
    """Tokens of answers of which the file has the text alone.

    The token by which an answer ended is not in the text. It is put back where `reading.end` names it, but for answers
    of 99 % of `reading.max_tokens` or more: those were cut off. (Text may come back as fewer tokens than were drawn.)
    """
    tokens, end = reading.tokens, reading.end
    if tokens is None:
        raise InputError("tokenizer", None, f"a tokenizer.json: the files of {title} have text, no tokens")
    found = [np.asarray(ids, np.int64) for ids in tokens.encode(texts)]
    said = ["Tokens are those of the tokenizer for the text; the run may have drawn others for the same text."]
    if end is None:
        said.append("The end token of an answer is not in the text, and was not put back (dsjax decisions does).")
        return Written(answers(found), said)
    last = tokens.id_of(end, "end")
    allowed = f"the run's limit of tokens an answer ({limit}): the file does not say which answers were cut off"
    if reading.max_tokens is None:
        raise InputError("max-tokens", None, allowed)
    require(reading.max_tokens >= 1, "max-tokens", reading.max_tokens, "at least 1")
    cut = np.array([len(x) >= 0.99 * reading.max_tokens for x in found])
    found = [x if was else np.append(x, last) for x, was in zip(found, cut, strict=True)]
    said.append(f"{end!r} put back behind {int((~cut).sum())} answers; {int(cut.sum())} of 99 % of the limit or more.")
    return Written({**answers(found), "truncated": cut}, said)

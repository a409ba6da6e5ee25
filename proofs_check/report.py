"""Results of a run, whatever the kind of evidence: pass or fail, a table for people, JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

VERSION = 1


class Column(NamedTuple):
    """One column of a table."""

    head: str
    number: bool = False
    share: int | None = None  # of the width that the others leave; None: as wide as its cells


class Line(NamedTuple):
    """One line of a table: what stands in it, and the numbers of the cells that are bad."""

    cells: tuple[str, ...]
    bad: tuple[int, ...] = ()


def strict(x: Any) -> Any:
    """The value for strict JSON, which has no NaN and no infinity: null stands for what is not finite."""
    if isinstance(x, Row):
        return x.to_json()
    if isinstance(x, Mapping):
        return {key: strict(value) for key, value in x.items()}
    if isinstance(x, Sequence) and not isinstance(x, str):
        return [strict(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


class Row:
    """One result. What a kind of evidence adds to `Report` stands in a subclass."""

    NAME: ClassVar[str]  # of the list of rows in JSON
    TITLE: ClassVar[str]  # of the table, with the settings in braces
    COLUMNS: ClassVar[tuple[Column, ...]]
    KEYS: ClassVar[tuple[str, ...]]  # attributes that go into JSON

    @property
    def ok(self) -> bool:
        """Whether it holds, and every wrong variant of it was rejected."""
        raise NotImplementedError

    @property
    def status(self) -> str:
        """Of the row in JSON."""
        return "ok" if self.ok else "failed"

    def failures(self) -> list[str]:
        """One line a thing that is wrong."""
        raise NotImplementedError

    @classmethod
    def lines(cls, rows: Sequence[Any]) -> Iterable[Line]:
        """The body of the table."""
        raise NotImplementedError

    @classmethod
    def closing(cls, report: Report) -> Iterable[str]:
        """What stands below table and failures, besides the time."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The row as strict JSON values."""
        return {key: strict(getattr(self, key)) for key in self.KEYS}


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Report(Generic[R]):
    """Results of one run.

    Attributes:
      kind: of the rows.
      rows: what was found.
      seconds: wall clock; where compilations overlap, less than the sum over rows.
      settings: what was asked for, by name, as it stands in the JSON.
    """

    kind: type[R]
    rows: tuple[R, ...]
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def skipped(self) -> Mapping[str, Sequence[str]]:
        """Theorem -> requirements that a user's own process misses."""
        return self.settings.get("skipped", {})

    @property
    def ok(self) -> bool:
        """Whether every row holds, with every control rejected; without a row there must be a reason for each."""
        return bool(self.rows or self.skipped) and all(row.ok for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The report as strict JSON values, format version 1; the rows are documented by their kind.

        {"version": 1, "ok", *settings, "seconds", NAME of the kind: [*rows]}
        """
        return {
            "version": VERSION,
            "ok": self.ok,
            **strict(self.settings),
            "seconds": self.seconds,
            self.kind.NAME: strict(self.rows),
        }

    def table(self) -> Table:
        """A line or two a row."""
        table = Table(title=self.kind.TITLE.format(**self.settings), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for head, number, share in self.kind.COLUMNS:
            table.add_column(head, justify="right" if number else "left", ratio=share, no_wrap=share is None)
        for cells, bad in self.kind.lines(self.rows):
            table.add_row(*(Text(cell, "red" if i in bad else "") for i, cell in enumerate(cells)))
        return table

    def failures(self) -> list[str]:
        """One line a thing that is wrong."""
        return [line for row in self.rows for line in row.failures()]

    def print(self, console: Console | None = None) -> None:
        """The table, what did not apply, what failed, and the time."""
        console = console or Console(markup=False)
        if self.rows:
            console.print(self.table())
        for name, reasons in self.skipped.items():
            console.print(f"{name} does not apply: it needs {'; '.join(reasons)}", highlight=False, markup=False)
        for line in self.failures():
            console.print(line, style="red", markup=False)
        for line in self.kind.closing(self):
            console.print(line, highlight=False, markup=False)

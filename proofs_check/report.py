"""Results of a run: pass or fail, a table for people, JSON for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

VERSION = 1


class Worst(NamedTuple):
    """Where the largest error was seen: with the run's seed it names the instance."""

    shape: str
    index: int
    shape_index: int = 0  # number of the shape among the theorem's


def _finite(x: float | None) -> float | None:
    """Strict JSON has no NaN and no infinity: null stands for what is not finite."""
    return x if x is not None and math.isfinite(x) else None


@dataclass(frozen=True)
class ClaimResult:
    """One claim over all instances."""

    name: str
    worst_error: float  # infinite if an error was not finite
    tolerance: float
    smallest_margin: float | None
    strict: bool
    worst: Worst

    @property
    def ok(self) -> bool:
        """Error within tolerance and, for a strict inequality, room left on every instance."""
        room = not self.strict or (self.smallest_margin is not None and self.smallest_margin > 0)
        finite = self.smallest_margin is None or math.isfinite(self.smallest_margin)
        return self.worst_error <= self.tolerance and room and finite

    def to_json(self) -> dict[str, Any]:
        """See `Report.to_json`."""
        return {
            "name": self.name,
            "status": "ok" if self.ok else "failed",
            "worst_error": _finite(self.worst_error),
            "tolerance": self.tolerance,
            "smallest_margin": _finite(self.smallest_margin),
            "worst_instance": {"shape": self.worst.shape, "index": self.worst.index},
        }


@dataclass(frozen=True)
class ControlResult:
    """One wrong variant over all instances that it applies to."""

    name: str
    instances: int
    smallest_error: float  # -infinite if an error was not finite
    tolerance: float

    @property
    def rejected(self) -> bool:
        """Whether every single instance rejects it."""
        return self.smallest_error > self.tolerance

    def to_json(self) -> dict[str, Any]:
        """See `Report.to_json`."""
        return {
            "name": self.name,
            "rejected": self.rejected,
            "instances": self.instances,
            "smallest_error": _finite(self.smallest_error),
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True)
class TheoremResult:
    """All claims and controls of one theorem."""

    id: str
    title: str
    statement: str
    provenance: str
    instances: int
    claims: tuple[ClaimResult, ...]
    controls: tuple[ControlResult, ...]
    compile_seconds: float
    run_seconds: float
    controls_required: bool = True  # not on a user's own process

    @property
    def control_rejected(self) -> bool:
        """Whether there was a control and every one was rejected."""
        return bool(self.controls) and all(c.rejected for c in self.controls)

    @property
    def ok(self) -> bool:
        """Every claim holds and every control is rejected."""
        return (
            bool(self.claims)
            and all(c.ok for c in self.claims)
            and (self.control_rejected or not self.controls_required)
        )

    @property
    def worst_error(self) -> float:
        """Largest error of all claims."""
        return max((c.worst_error for c in self.claims), default=math.inf)

    @property
    def smallest_margin(self) -> float | None:
        """Least slack of all inequalities; None if there is none."""
        return min((c.smallest_margin for c in self.claims if c.smallest_margin is not None), default=None)

    @property
    def seconds(self) -> float:
        """Compiling and running."""
        return self.compile_seconds + self.run_seconds

    @property
    def rate(self) -> float | None:
        """Instances a second, once compiled."""
        return self.instances / self.run_seconds if self.run_seconds > 0 else None

    def to_json(self) -> dict[str, Any]:
        """See `Report.to_json`."""
        return {
            "id": self.id,
            "title": self.title,
            "statement": self.statement,
            "provenance": self.provenance,
            "status": "ok" if self.ok else "failed",
            "instances": self.instances,
            "worst_error": _finite(self.worst_error),
            "smallest_margin": _finite(self.smallest_margin),
            "control_rejected": self.control_rejected,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "instances_per_second": self.rate,
            "claims": [c.to_json() for c in self.claims],
            "controls": [c.to_json() for c in self.controls],
        }


@dataclass(frozen=True)
class Report:
    """Results of one run."""

    seed: int
    instances: int  # asked for, per theorem
    theorems: tuple[TheoremResult, ...]
    seconds: float  # wall clock; compilations overlap, so less than the sum over theorems
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)  # requirements that a user's process misses

    @property
    def ok(self) -> bool:
        """Whether every theorem passed and every control was rejected."""
        return bool(self.theorems) and all(t.ok for t in self.theorems)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent compiling, added over threads."""
        return sum(t.compile_seconds for t in self.theorems)

    @property
    def run_seconds(self) -> float:
        """Seconds spent running compiled checks."""
        return sum(t.run_seconds for t in self.theorems)

    def to_json(self) -> dict[str, Any]:
        """The report as strict JSON values, format version 1.

            {"version": 1, "ok", "seed", "instances", "seconds", "theorems": [
                {"id", "title", "statement", "provenance", "status": "ok" | "failed", "instances", "worst_error",
                 "smallest_margin", "control_rejected", "seconds", "compile_seconds", "instances_per_second",
                 "claims": [{"name", "status", "worst_error", "tolerance", "smallest_margin",
                             "worst_instance": {"shape", "index"}}],
                 "controls": [{"name", "rejected", "instances", "smallest_error", "tolerance"}]}],
             "skipped": {id: [requirement, ..]}}

        `worst_error` is null if an error was not finite (the claim then failed), `smallest_margin` is null where the
        claim is an equation, `smallest_error` is null if a control's error was not finite (it is then not rejected).
        `skipped` names what a user's own process lacks. Only claims and controls that apply to a shape that was run are
        listed. A theorem's `seconds` add up over
        compiler threads; the report's are wall clock.
        """
        return {
            "version": VERSION,
            "ok": self.ok,
            "seed": self.seed,
            "instances": self.instances,
            "seconds": self.seconds,
            "theorems": [t.to_json() for t in self.theorems],
            "skipped": {name: list(reasons) for name, reasons in self.skipped.items()},
        }

    def table(self) -> Table:
        """One row a theorem."""
        table = Table(title=f"Theorem checks, float64, seed {self.seed}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("id")
        table.add_column("statement", ratio=1)
        table.add_column("tag", no_wrap=True)
        for name in ("in-\nstances", "worst\nerror", "smallest\nmargin"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("control\nrejected", no_wrap=True)
        table.add_column("sec-\nonds", justify="right", no_wrap=True)
        for t in self.theorems:
            margin = "" if t.smallest_margin is None else f"{t.smallest_margin:.1e}"
            table.add_row(
                t.id if t.ok else f"[red]{t.id} FAILED[/red]",
                escape(t.statement),
                escape(t.provenance),
                str(t.instances),
                f"{t.worst_error:.1e}",
                margin,
                "yes" if t.control_rejected else "[red]NO[/red]",
                f"{t.seconds:.1f}",
            )
        return table

    def failures(self) -> list[str]:
        """One line a failed claim or a control that passed."""
        lines = []
        for t in self.theorems:
            lines += [
                f"{t.id}: {c.name}: error {c.worst_error:.3g}, tolerance {c.tolerance:.3g}"
                + ("" if c.smallest_margin is None else f", smallest margin {c.smallest_margin:.3g}")
                + f"; worst instance {c.worst.index} of shape {c.worst.shape}"
                for c in t.claims
                if not c.ok
            ]
            lines += [
                f"{t.id}: control not rejected: {c.name}: smallest error {c.smallest_error:.3g}, "
                f"tolerance {c.tolerance:.3g}"
                for c in t.controls
                if not c.rejected
            ]
            if not t.controls:
                lines.append(f"{t.id}: no control applies to the shapes that were run")
        return lines

    def print(self, console: Console | None = None) -> None:
        """The table, what failed, and the times."""
        console = console or Console()
        console.print(self.table())
        for name, reasons in self.skipped.items():
            console.print(f"{name} does not apply: it needs {'; '.join(reasons)}", highlight=False)
        for line in self.failures():
            console.print(escape(line), style="red")
        rates = ", ".join(f"{t.id} {t.rate:.0f}" for t in self.theorems if t.rate is not None)
        if rates:
            console.print(f"instances a second, once compiled: {rates}", highlight=False)
        console.print(
            f"{self.seconds:.1f} s; over threads, {self.compile_seconds:.1f} s compiling and "
            f"{self.run_seconds:.1f} s running"
        )

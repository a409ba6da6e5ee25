"""Rows of the exact numeric evidence: a theorem with its claims and controls over all instances."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from proofs_check.extremes import EXTREMES
from proofs_check.report import Column, Line, Report, Row
from proofs_check.statement import Statement


class Worst(NamedTuple):
    """Where the largest error was seen: with the run's seed it names the instance."""

    shape: str
    index: int
    shape_index: int = 0  # number of the shape among the theorem's


@dataclass(frozen=True)
class ClaimResult(Row):
    """One claim over all instances."""

    name: str
    worst_error: float  # infinite if an error was not finite
    tolerance: float
    smallest_margin: float | None
    strict: bool
    worst: Worst

    KEYS: ClassVar = ("name", "status", "worst_error", "tolerance", "smallest_margin", "worst_instance")

    @property
    def ok(self) -> bool:
        """Error within tolerance and, for a strict inequality, room left on every instance."""
        room = not self.strict or (self.smallest_margin is not None and self.smallest_margin > 0)
        finite = self.smallest_margin is None or math.isfinite(self.smallest_margin)
        return self.worst_error <= self.tolerance and room and finite

    @property
    def worst_instance(self) -> dict[str, Any]:
        """Its place, for JSON."""
        return {"shape": self.worst.shape, "index": self.worst.index}


@dataclass(frozen=True)
class ControlResult(Row):
    """One wrong variant over all instances that it applies to."""

    name: str
    instances: int
    smallest_error: float  # -infinite if an error was not finite
    tolerance: float

    KEYS: ClassVar = ("name", "rejected", "instances", "smallest_error", "tolerance")

    @property
    def rejected(self) -> bool:
        """Whether every single instance rejects it."""
        return self.smallest_error > self.tolerance


@dataclass(frozen=True)
class ExtremeResult(Row):
    """The instances of one extreme, by the claim that came closest to its tolerance on them."""

    name: str
    instances: int
    claim: str
    worst_error: float
    worst: Worst
    tolerance: float

    KEYS: ClassVar = ("name", "instances", "claim", "worst_error", "tolerance", "worst_instance")

    @property
    def text(self) -> str:
        """Of the extreme, in words."""
        return EXTREMES[self.name].text

    @property
    def relative(self) -> float:
        """The error in units of its tolerance, of one that is 0 as it is."""
        return self.worst_error / self.tolerance if self.tolerance > 0 else self.worst_error

    @property
    def worst_instance(self) -> dict[str, Any]:
        """Its place, for JSON."""
        return {"shape": self.worst.shape, "index": self.worst.index}


@dataclass(frozen=True)
class TheoremResult(Row):
    """All claims and controls of one theorem.

    In JSON:

    {"id", "title", "statement", "provenance", "status": "ok" | "failed", "instances", "deciding_instances",
     "worst_error", "smallest_margin", "control_rejected", "seconds", "compile_seconds", "instances_per_second",
     "claims": [{"name", "status", "worst_error", "tolerance", "smallest_margin",
                 "worst_instance": {"shape", "index"}}],
     "controls": [{"name", "rejected", "instances", "smallest_error", "tolerance"}],
     "extremes": [{"name", "instances", "claim", "worst_error", "tolerance", "worst_instance": {"shape", "index"}}]}

    `worst_error` is null if an error was not finite (the claim then failed), `smallest_margin` is null where the claim
    is an equation, `smallest_error` is null if a control's error was not finite (it is then not rejected). Only claims
    and controls that apply to a shape that was run are listed. `deciding_instances` have T >= 2. An extreme (see
    `proofs_check.extremes`) is listed with the claim whose error is the largest in units of its tolerance. The settings
    of the report are "seed", "instances" (asked for, per theorem), "skipped": {id: [requirement, ..]}, what a user's
    own process lacks, and "prompts_left_out", of it, for they never come.
    """

    about: Statement
    instances: int
    claims: tuple[ClaimResult, ...]
    controls: tuple[ControlResult, ...]
    compile_seconds: float
    run_seconds: float
    controls_required: bool = True  # not on a user's own process
    deciding_instances: int = 0  # with T >= 2
    extremes: tuple[ExtremeResult, ...] = ()

    NAME: ClassVar = "theorems"
    TITLE: ClassVar = "Theorem checks, float64, seed {seed}"
    COLUMNS: ClassVar = (
        Column("id"),
        Column("statement", share=1),
        Column("tag"),
        Column("inst.\nT>=2", number=True),
        Column("worst\nerror", number=True),
        Column("smallest\nmargin", number=True),
        Column("control\nfails"),
        Column("sec-\nonds", number=True),
    )
    KEYS: ClassVar = (
        *("id", "title", "statement", "provenance", "status", "instances", "deciding_instances", "worst_error"),
        *("smallest_margin", "control_rejected", "seconds", "compile_seconds", "instances_per_second"),
        *("claims", "controls", "extremes"),
    )

    @property
    def id(self) -> str:
        """`T1`, `T2`, .."""
        return self.about.id

    @property
    def title(self) -> str:
        """As in docs/theory.md."""
        return self.about.title

    @property
    def statement(self) -> str:
        """In a line."""
        return self.about.formula

    @property
    def provenance(self) -> str:
        """Tag of the statement."""
        return self.about.provenance

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
        """Compiling and running, added up over compiler threads."""
        return self.compile_seconds + self.run_seconds

    @property
    def instances_per_second(self) -> float | None:
        """Once compiled."""
        return self.instances / self.run_seconds if self.run_seconds > 0 else None

    @classmethod
    def lines(cls, rows: Sequence[TheoremResult]) -> Iterable[Line]:
        """One theorem a line, in plain words: the formula is in the page."""
        for t in rows:
            cells = (
                t.id,
                t.about.plain if t.ok else f"FAILED: {t.about.plain}",
                t.provenance,
                f"{t.instances}\n{t.deciding_instances}",
                f"{t.worst_error:.1e}",
                "" if t.smallest_margin is None else f"{t.smallest_margin:.1e}",
                "yes" if t.control_rejected else "NO" if t.controls_required else "not all",
                f"{t.seconds:.1f}" if t.seconds < 99.95 else f"{t.seconds:.0f}",
            )
            yield Line(cells, (0, 1) * (not t.ok) + (6,) * (t.controls_required and not t.control_rejected))

    def failures(self) -> list[str]:
        """Failed claims, and controls that passed."""
        lines = [
            f"{self.id}: {c.name}: error {c.worst_error:.3g}, tolerance {c.tolerance:.3g}"
            + ("" if c.smallest_margin is None else f", smallest margin {c.smallest_margin:.3g}")
            + f"; worst instance {c.worst.index} of shape {c.worst.shape}"
            for c in self.claims
            if not c.ok
        ]
        if not self.controls_required:
            return lines
        lines += [
            f"{self.id}: control not rejected: {c.name}: smallest error {c.smallest_error:.3g}, "
            f"tolerance {c.tolerance:.3g}"
            for c in self.controls
            if not c.rejected
        ]
        asked = self.controls_required and not self.controls
        return lines if not asked else [*lines, f"{self.id}: no control applies to the shapes that were run"]

    @classmethod
    def closing(cls, report: Report) -> Iterable[str]:
        """What was left out; of each extreme the worst instance of all theorems; rates and times."""
        if n := report.settings.get("prompts_left_out"):
            yield f"left out, for they never come: {n} of the prompts"
        for name, extreme in EXTREMES.items():
            found = [(t.id, e) for t in report.rows for e in t.extremes if e.name == name]
            if found:
                worst, e = max(found, key=lambda pair: pair[1].relative)
                count = sum(e.instances for _, e in found)
                yield f"{count} at {extreme.text}: error up to {e.relative:.0e} tolerances ({worst})"
        rates = {t.id: t.instances_per_second for t in report.rows}
        known = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items() if rate is not None)
        if known:
            yield f"instances a second, once compiled: {known}"
        compiling, running = (sum(getattr(t, f"{part}_seconds") for t in report.rows) for part in ("compile", "run"))
        yield f"{report.seconds:.1f} s; over threads, {compiling:.1f} s compiling and {running:.1f} s running"


def numeric_report(
    seed: int,
    instances: int,
    theorems: Sequence[TheoremResult],
    seconds: float,
    skipped: dict[str, tuple[str, ...]] | None = None,
    left_out: int = 0,
) -> Report[TheoremResult]:
    """The report of a run of theorem checks."""
    settings = {"seed": seed, "instances": instances, "skipped": skipped or {}, "prompts_left_out": left_out}
    return Report(TheoremResult, tuple(theorems), seconds, settings)

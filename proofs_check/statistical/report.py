"""Results of the statistical evidence: pass or fail, a table for people, JSON for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

VERSION = 1


def _finite(x: float) -> float | None:
    """Strict JSON has no NaN and no infinity: null stands for what is not finite."""
    return x if math.isfinite(x) else None


def _p(x: float) -> str:
    return "0" if x == 0 else f"{x:.2g}"


@dataclass(frozen=True)
class Row:
    """One estimator: its test, what the test could have seen, and the wrong variant."""

    estimator: str
    theorem: str
    provenance: str
    claim: str
    setting: str
    statistic: float  # Hotelling's T^2; infinite if a direction without variance is off
    degrees: int
    p_value: float
    p_holm: float  # Holm over the rows of a full run
    detectable_bias: float  # relative, along the expected gradient, seen with probability POWER
    detectable_decision_bias: float  # the same for a bias of the part of pi_d alone
    exact_gap: float  # enumeration against the statement's closed form
    tolerance: float  # of that gap
    control: str
    control_statistic: float
    control_p: float
    level: float  # of the family
    control_level: float  # of one row: level / number of rows
    samples: int  # independent batches
    trajectories: int
    seconds: float  # an equal part of its process's compiling and running

    @property
    def ok(self) -> bool:
        """The mean is not rejected, and its exact value is the stated one. A NaN is neither."""
        return self.p_holm > self.level and self.exact_gap <= self.tolerance

    @property
    def control_rejected(self) -> bool:
        """Whether the wrong variant is rejected even at the strictest step of Holm's procedure."""
        return self.control_p <= self.control_level

    def to_json(self) -> dict[str, Any]:
        """See `StatisticalReport.to_json`."""
        return {
            "estimator": self.estimator,
            "theorem": self.theorem,
            "provenance": self.provenance,
            "claim": self.claim,
            "setting": self.setting,
            "status": "ok" if self.ok else "failed",
            "statistic": _finite(self.statistic),
            "degrees": self.degrees,
            "p_value": _finite(self.p_value),
            "p_holm": _finite(self.p_holm),
            "detectable_bias": _finite(self.detectable_bias),
            "detectable_decision_bias": _finite(self.detectable_decision_bias),
            "exact_gap": _finite(self.exact_gap),
            "tolerance": self.tolerance,
            "control": self.control,
            "control_statistic": _finite(self.control_statistic),
            "control_p": _finite(self.control_p),
            "control_rejected": self.control_rejected,
            "samples": self.samples,
            "trajectories": self.trajectories,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class StatisticalReport:
    """Results of one run."""

    seed: int
    samples: int  # independent batches per estimator
    level: float  # probability of any false alarm, at most
    power: float  # at which the detectable biases are stated
    rows: tuple[Row, ...]
    seconds: float  # wall clock

    @property
    def ok(self) -> bool:
        """Whether no estimator is rejected and every wrong variant is."""
        return bool(self.rows) and all(r.ok and r.control_rejected for r in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The report as strict JSON values, format version 1.

            {"version": 1, "ok", "seed", "samples", "level", "power", "seconds", "rows": [
                {"estimator", "theorem", "provenance", "claim", "setting", "status": "ok" | "failed", "statistic",
                 "degrees", "p_value", "p_holm", "detectable_bias", "detectable_decision_bias", "exact_gap",
                 "tolerance", "control", "control_statistic", "control_p", "control_rejected", "samples",
                 "trajectories", "seconds"}]}

        Null stands for a number that is not finite: a row with such a p-value or gap has failed. A statistic is null
        too where a direction that never varies has the wrong value (p = 0).
        """
        return {
            "version": VERSION,
            "ok": self.ok,
            "seed": self.seed,
            "samples": self.samples,
            "level": self.level,
            "power": self.power,
            "seconds": self.seconds,
            "rows": [r.to_json() for r in self.rows],
        }

    def table(self) -> Table:
        """One row an estimator."""
        title = f"Sampled estimators against exact expectations, {self.samples} batches, seed {self.seed}"
        table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("estimator", ratio=2)
        table.add_column("expectation", ratio=2)
        table.add_column("of", no_wrap=True)
        for name in ("T²(df)", "p", "Holm", "sees\nbias"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("control", ratio=2)
        table.add_column("its p", justify="right", no_wrap=True)
        for r in self.rows:
            table.add_row(
                escape(r.estimator) if r.ok else f"[red]{escape(r.estimator)} FAILED[/red]",
                escape(r.claim),
                escape(f"{r.theorem} {r.provenance}"),
                f"{r.statistic:.0f}({r.degrees})",
                _p(r.p_value),
                _p(r.p_holm),
                f"{r.detectable_bias:.1%}",
                escape(r.control),
                _p(r.control_p) if r.control_rejected else f"[red]{_p(r.control_p)} PASSED[/red]",
            )
        return table

    def failures(self) -> list[str]:
        """One line a rejected estimator, a wrong exact value, or a control that passed."""
        lines = []
        for r in self.rows:
            if not r.p_holm > r.level:
                lines.append(f"{r.estimator}: mean is not {r.claim}: p = {r.p_value:.3g}, by Holm {r.p_holm:.3g}")
            if not r.exact_gap <= r.tolerance:
                lines.append(f"{r.estimator}: exact value is off {r.claim} by {r.exact_gap:.3g}")
            if not r.control_rejected:
                lines.append(f"{r.estimator}: control not rejected: {r.control}: p = {r.control_p:.3g}")
        return lines

    def print(self, console: Console | None = None) -> None:
        """The table, what failed, and what the columns mean."""
        console = console or Console()
        console.print(self.table())
        for line in self.failures():
            console.print(escape(line), style="red")
        console.print(
            f"Hotelling's T² on whole gradients; Holm's correction over the family: the probability of any false alarm "
            f"is about {self.level} at most.\nsees bias: relative bias along the expected gradient that would "
            f"have been noticed with probability {self.power}.\n{self.seconds:.1f} s",
            highlight=False,
        )

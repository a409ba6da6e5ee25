"""Rows of the statistical evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from proofs_check.report import Column, Line, Report, Row


def _p(x: float) -> str:
    return "0" if x == 0 else f"{x:.2g}"


@dataclass(frozen=True)
class EstimatorResult(Row):
    """One estimator: its test, what the test could have seen, and the wrong variant.

    In JSON it has the attributes, but the two levels, and "status": "ok" | "failed", "control_rejected". Null stands
    for a number that is not finite: a row with such a p-value or gap has failed. A statistic is null too where a
    direction that never varies has the wrong value (p = 0). The settings of the report are "seed", "samples"
    (independent batches per estimator), "level" (probability of any false alarm, at most) and "power" (at which the
    detectable biases are stated).
    """

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

    NAME: ClassVar = "rows"
    TITLE: ClassVar = "Sampled estimators against exact expectations, {samples} batches, seed {seed}"
    COLUMNS: ClassVar = (
        Column("estimator", share=2),
        Column("expectation", share=2),
        Column("of"),
        *(Column(name, number=True) for name in ("T²(df)", "p", "Holm", "sees\nbias")),
        Column("control", share=2),
        Column("its p", number=True),
    )
    KEYS: ClassVar = (
        *("estimator", "theorem", "provenance", "claim", "setting", "status", "statistic", "degrees", "p_value"),
        *("p_holm", "detectable_bias", "detectable_decision_bias", "exact_gap", "tolerance", "control"),
        *("control_statistic", "control_p", "control_rejected", "samples", "trajectories", "seconds"),
    )

    @property
    def holds(self) -> bool:
        """The mean is not rejected, and its exact value is the stated one. A NaN is neither."""
        return self.p_holm > self.level and self.exact_gap <= self.tolerance

    @property
    def control_rejected(self) -> bool:
        """Whether the wrong variant is rejected even at the strictest step of Holm's procedure."""
        return self.control_p <= self.control_level

    @property
    def ok(self) -> bool:
        """Not rejected, and its wrong variant is."""
        return self.holds and self.control_rejected

    @property
    def status(self) -> str:
        """Of the estimator alone."""
        return "ok" if self.holds else "failed"

    @classmethod
    def lines(cls, rows: Sequence[EstimatorResult]) -> Iterable[Line]:
        """One estimator a line."""
        for r in rows:
            cells = (
                r.estimator if r.holds else f"{r.estimator} FAILED",
                r.claim,
                f"{r.theorem} {r.provenance}",
                f"{r.statistic:.0f}({r.degrees})",
                _p(r.p_value),
                _p(r.p_holm),
                f"{r.detectable_bias:.1%}",
                r.control,
                _p(r.control_p) if r.control_rejected else f"{_p(r.control_p)} PASSED",
            )
            yield Line(cells, (0,) * (not r.holds) + (8,) * (not r.control_rejected))

    def failures(self) -> list[str]:
        """A rejected estimator, a wrong exact value, or a control that passed."""
        lines = []
        if not self.p_holm > self.level:
            lines.append(f"mean is not {self.claim}: p = {self.p_value:.3g}, by Holm {self.p_holm:.3g}")
        if not self.exact_gap <= self.tolerance:
            lines.append(f"exact value is off {self.claim} by {self.exact_gap:.3g}")
        if not self.control_rejected:
            lines.append(f"control not rejected: {self.control}: p = {self.control_p:.3g}")
        return [f"{self.estimator}: {line}" for line in lines]

    @classmethod
    def closing(cls, report: Report) -> Iterable[str]:
        """What the columns mean."""
        yield (
            "Hotelling's T² on whole gradients; Holm's correction over the family: the probability of any false alarm "
            f"is about {report.settings['level']} at most."
        )
        yield (
            "sees bias: relative bias along the expected gradient that would have been noticed with probability "
            f"{report.settings['power']}."
        )
        yield f"{report.seconds:.1f} s"

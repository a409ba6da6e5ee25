"""Runs symbolic proofs one after the other, in one process: all of them take seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from proofs_check.report import Column, Line, Report, Row
from proofs_check.runner import Progress
from proofs_check.statement import STATEMENTS
from proofs_check.symbolic.proof import SymbolicProof, is_refuted, is_zero
from proofs_check.symbolic.registry import select


@dataclass(frozen=True)
class ProofResult(Row):
    """One proof: whether its identities hold, and whether its wrong variant is refuted.

    In JSON:

    {"theorem", "claim", "shape", "free_symbols", "status": "proved" | "failed", "identities", "control",
     "control_rejected", "seconds"}
    """

    theorem: str
    claim: str
    shape: str
    free_symbols: str
    identities: int  # residuals that were decided
    failed: int  # of them, how many are not identically zero
    control: str
    control_rejected: bool
    seconds: float

    NAME: ClassVar = "proofs"
    TITLE: ClassVar = "Symbolic proofs, exact"
    COLUMNS: ClassVar = (
        Column("id"),
        Column("statement", share=1),
        Column("proofs", number=True),
        Column("iden-\ntities", number=True),
        Column("control\nrejected"),
        Column("sec-\nonds", number=True),
    )
    KEYS: ClassVar = (
        *("theorem", "claim", "shape", "free_symbols", "status", "identities", "control", "control_rejected"),
        "seconds",
    )

    @property
    def proved(self) -> bool:
        """There is at least one identity and every one holds."""
        return self.identities > 0 and self.failed == 0

    @property
    def status(self) -> str:
        """Of the identities alone."""
        return "proved" if self.proved else "failed"

    @property
    def ok(self) -> bool:
        """Proved, and the wrong variant refuted."""
        return self.proved and self.control_rejected

    @classmethod
    def lines(cls, rows: Sequence[ProofResult]) -> Iterable[Line]:
        """One theorem a line, in plain words: the identities and the shapes they are proved for are in the page."""
        for theorem, group in groupby(rows, key=lambda p: p.theorem):
            proofs = list(group)
            ok, rejected = all(p.ok for p in proofs), all(p.control_rejected for p in proofs)
            cells = (
                theorem,
                STATEMENTS[theorem].plain if ok else f"FAILED: {STATEMENTS[theorem].plain}",
                str(len(proofs)),
                str(sum(p.identities for p in proofs)),
                "yes" if rejected else "NO",
                f"{sum(p.seconds for p in proofs):.1f}",
            )
            yield Line(cells, (0, 1) * (not ok) + (4,) * (not rejected))

    def failures(self) -> list[str]:
        """Identities that do not hold, and a control that passed."""
        wrong = f"{self.theorem}: {self.failed} of {self.identities} identities do not hold: {self.claim}; {self.shape}"
        passed = f"{self.theorem}: control not rejected: {self.control}; {self.shape}"
        return [wrong] * (not self.proved) + [passed] * (not self.control_rejected)

    @classmethod
    def closing(cls, report: Report) -> Iterable[str]:
        """How many, and the time."""
        proved, identities = sum(p.proved for p in report.rows), sum(p.identities for p in report.rows)
        yield f"{proved} of {len(report.rows)} proved, {identities} identities, {report.seconds:.1f} s"


def decide(proof: SymbolicProof) -> ProofResult:
    """Decide every identity by its normal form, and refute the wrong variant at a rational point."""
    start = time.perf_counter()
    residual = proof.residual()
    failed = sum(not is_zero(x) for x in residual)
    rejected = any(is_refuted(x) for x in proof.control())
    return ProofResult(
        proof.theorem,
        proof.claim,
        proof.shape,
        proof.symbols,
        len(residual),
        failed,
        proof.control_name,
        rejected,
        time.perf_counter() - start,
    )


def run_symbolic(
    ids: Sequence[str] | None = None, progress: Callable[[Progress], None] | None = None
) -> Report[ProofResult]:
    """Prove theorems for small shapes, in exact arithmetic.

    Args:
      ids: which ones, e.g. `("T1", "T3")`; all that have a symbolic proof by default.
      progress: called after every proof.

    Raises:
      InputError: for a theorem without a symbolic proof.
    """
    proofs = select(ids)
    results, start = [], time.perf_counter()
    for proof in proofs:
        results.append(decide(proof))
        if progress is not None:
            progress(Progress(proof.theorem, len(results), len(proofs)))
    return Report(ProofResult, tuple(results), time.perf_counter() - start)

"""Results of the symbolic proofs: a table for people, JSON for programs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

VERSION = 1


@dataclass(frozen=True)
class ProofResult:
    """One proof: whether its identities hold, and whether its wrong variant is refuted."""

    theorem: str
    claim: str
    shape: str
    symbols: str
    identities: int  # residuals that were decided
    failed: int  # of them, how many are not identically zero
    control: str
    control_rejected: bool
    seconds: float

    @property
    def proved(self) -> bool:
        """There is at least one identity and every one holds."""
        return self.identities > 0 and self.failed == 0

    @property
    def ok(self) -> bool:
        """Proved, and the wrong variant refuted."""
        return self.proved and self.control_rejected

    def to_json(self) -> dict[str, Any]:
        """See `SymbolicReport.to_json`."""
        return {
            "theorem": self.theorem,
            "claim": self.claim,
            "shape": self.shape,
            "free_symbols": self.symbols,
            "status": "proved" if self.proved else "failed",
            "identities": self.identities,
            "control": self.control,
            "control_rejected": self.control_rejected,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class SymbolicReport:
    """A run of symbolic proofs."""

    proofs: tuple[ProofResult, ...]
    seconds: float  # wall clock

    @property
    def ok(self) -> bool:
        """At least one proof, every one proved and every control rejected."""
        return bool(self.proofs) and all(p.ok for p in self.proofs)

    def to_json(self) -> dict[str, Any]:
        """The report as strict JSON values, format version 1.

        {"version": 1, "ok", "seconds", "proofs": [
            {"theorem", "claim", "shape", "free_symbols", "status": "proved" | "failed", "identities",
                 "control", "control_rejected", "seconds"}]}
        """
        return {
            "version": VERSION,
            "ok": self.ok,
            "seconds": self.seconds,
            "proofs": [p.to_json() for p in self.proofs],
        }

    def table(self) -> Table:
        """One row a claim, with all shapes that it is proved for."""
        table = Table(title="Symbolic proofs, exact", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("id")
        table.add_column("identity", ratio=3)
        table.add_column("shape", ratio=2)
        table.add_column("iden-\ntities", justify="right", no_wrap=True)
        table.add_column("control\nrejected", no_wrap=True)
        table.add_column("sec-\nonds", justify="right", no_wrap=True)
        for (theorem, claim), group in groupby(self.proofs, key=lambda p: (p.theorem, p.claim)):
            proofs = list(group)
            table.add_row(
                theorem if all(p.ok for p in proofs) else f"[red]{theorem} FAILED[/red]",
                escape(claim),
                escape("\n".join(p.shape for p in proofs)),
                str(sum(p.identities for p in proofs)),
                "yes" if all(p.control_rejected for p in proofs) else "[red]NO[/red]",
                f"{sum(p.seconds for p in proofs):.1f}",
            )
        return table

    def failures(self) -> list[str]:
        """One line a proof that failed or whose control passed."""
        lines = []
        for p in self.proofs:
            if not p.proved:
                lines.append(f"{p.theorem}: {p.failed} of {p.identities} identities do not hold: {p.claim}; {p.shape}")
            if not p.control_rejected:
                lines.append(f"{p.theorem}: control not rejected: {p.control}; {p.shape}")
        return lines

    def print(self, console: Console | None = None) -> None:
        """The table, what failed, and the time."""
        console = console or Console()
        console.print(self.table())
        for line in self.failures():
            console.print(escape(line), style="red")
        proved = sum(p.proved for p in self.proofs)
        identities = sum(p.identities for p in self.proofs)
        console.print(f"{proved} of {len(self.proofs)} proved, {identities} identities, {self.seconds:.1f} s")

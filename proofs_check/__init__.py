"""Checks of the statements in docs/theory.md, on random processes, against the code that training uses."""

from proofs_check.registry import THEOREMS
from proofs_check.report import Report
from proofs_check.runner import DEFAULT_INSTANCES, Progress, run

__all__ = ["DEFAULT_INSTANCES", "THEOREMS", "Progress", "Report", "run"]

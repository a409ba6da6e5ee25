"""Checks of the statements in docs/theory.md, on random processes, against the code that training uses."""

from proofs_check.gathering import gather
from proofs_check.page import Evidence
from proofs_check.page import write as write_page
from proofs_check.registry import THEOREMS
from proofs_check.report import Report
from proofs_check.runner import DEFAULT_INSTANCES, QUICK_INSTANCES, Progress, check, check_instance
from proofs_check.statistical import run_statistical
from proofs_check.symbolic import run_symbolic

__all__ = [
    "DEFAULT_INSTANCES",
    "QUICK_INSTANCES",
    "THEOREMS",
    "Evidence",
    "Progress",
    "Report",
    "check",
    "check_instance",
    "gather",
    "run_statistical",
    "run_symbolic",
    "write_page",
]

"""Proofs of the statements in docs/theory.md for small shapes: identities in free symbols, in exact arithmetic."""

from proofs_check.symbolic.proof import SymbolicProof
from proofs_check.symbolic.registry import SYMBOLIC
from proofs_check.symbolic.report import ProofResult, SymbolicReport
from proofs_check.symbolic.runner import SymbolicProgress, run_symbolic

__all__ = ["SYMBOLIC", "ProofResult", "SymbolicProgress", "SymbolicProof", "SymbolicReport", "run_symbolic"]

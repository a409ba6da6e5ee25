"""Proofs of the statements in docs/theory.md for small shapes: identities in free symbols, in exact arithmetic."""

from proofs_check.symbolic.proof import SymbolicProof
from proofs_check.symbolic.registry import SYMBOLIC
from proofs_check.symbolic.runner import ProofResult, run_symbolic

__all__ = ["SYMBOLIC", "ProofResult", "SymbolicProof", "run_symbolic"]

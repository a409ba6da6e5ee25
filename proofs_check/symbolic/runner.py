"""Runs symbolic proofs one after the other, in one process: all of them take seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proofs_check.symbolic.proof import SymbolicProof, is_refuted, is_zero
from proofs_check.symbolic.registry import select
from proofs_check.symbolic.report import ProofResult, SymbolicReport


@dataclass(frozen=True)
class SymbolicProgress:
    """What the hook of `run_symbolic` is told, once a proof."""

    theorem: str
    done: int  # proofs done
    total: int  # proofs to do


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
    ids: Sequence[str] | None = None, progress: Callable[[SymbolicProgress], None] | None = None
) -> SymbolicReport:
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
            progress(SymbolicProgress(proof.theorem, len(results), len(proofs)))
    return SymbolicReport(tuple(results), time.perf_counter() - start)

"""All kinds of evidence for a report, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from proofs_check.boundaries import BOUNDARIES
from proofs_check.page import Evidence
from proofs_check.runner import Progress, check, worst_instance
from proofs_check.statistical import run_statistical
from proofs_check.symbolic import SYMBOLIC, run_symbolic


def gather(
    ids: Sequence[str] | None, instances: int, seed: int, quick: bool, hook: Callable[[str], Callable[[Any], None]]
) -> Evidence:
    """Numeric, symbolic and statistical evidence, boundaries and worst instances of these theorems.

    Args:
      ids: theorems; all of them by default.
      instances: random instances per theorem.
      seed: of the instances and of the sampled estimators.
      quick: see `check`.
      hook: hook(kind) is the progress hook of `numeric`, `symbolic`, `statistical` and `boundaries`.
    """
    numeric = check(ids, instances=instances, seed=seed, quick=quick, progress=hook("numeric"))
    known = [t.id for t in numeric.rows]
    provable = [name for name in known if name in SYMBOLIC]
    symbolic = run_symbolic(provable, hook("symbolic")) if provable else None
    statistical = run_statistical(seed, hook("statistical"))
    maps = [b for b in BOUNDARIES if b.theorem in known]
    boundaries = {}
    for i, boundary in enumerate(maps):
        boundaries[boundary.theorem] = boundary.measure()
        hook("boundaries")(Progress(boundary.theorem, i + 1, len(maps)))
    worst = {t.id: worst_instance(t, seed, quick=quick, instances=instances) for t in numeric.rows}
    return Evidence(numeric, symbolic, statistical, boundaries, worst)

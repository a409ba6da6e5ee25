"""Every symbolic proof, by theorem."""

from __future__ import annotations

from collections.abc import Sequence

from dsjax.errors import require
from proofs_check.registry import parts
from proofs_check.symbolic.proof import Proofs, SymbolicProof

SYMBOLIC: dict[str, Proofs] = {module.PROOFS.theorem: module.PROOFS for module in parts("symbolic")}


def select(ids: Sequence[str] | None) -> tuple[SymbolicProof, ...]:
    """The proofs of those theorems in the given order, each theorem once; all of them for None.

    Raises:
      InputError: for a theorem without a symbolic proof, or for an empty selection.
    """
    names = list(SYMBOLIC) if ids is None else list(dict.fromkeys(ids))
    require(len(names) > 0, "theorem", names, SYMBOLIC)
    for name in names:
        require(name in SYMBOLIC, "theorem", name, SYMBOLIC)
    return tuple(proof for name in names for proof in SYMBOLIC[name])

"""Every theorem by id, in order: the folders of `proofs_check.theorems`, with what each of them holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from types import ModuleType

from dsjax.errors import require
from proofs_check.theorem import Theorem
from proofs_check.theorems import FOLDERS


def parts(name: str) -> list[ModuleType]:
    """The modules of that name of all theorems that have one, in order."""
    there = [f"{folder}.{name}" for folder in FOLDERS]
    return [importlib.import_module(module) for module in there if importlib.util.find_spec(module)]


def complete(theorem: Theorem) -> Theorem:
    """The theorem, if everything that it declares is checked somewhere.

    Raises:
      ValueError: for a claim or a control that none of its shapes has.
    """
    if unreached := theorem.unreached():
        raise ValueError(f"{theorem.id}: no shape has {', '.join(unreached)}")
    return theorem


THEOREMS: dict[str, Theorem] = {module.THEOREM.id: complete(module.THEOREM) for module in parts("numeric")}


def select(ids: str | Sequence[str] | None) -> tuple[Theorem, ...]:
    """The theorems of those ids in the given order, each once; all of them for None.

    Raises:
      InputError: for an id that is not in `THEOREMS`, or for an empty selection.
    """
    if ids is None:
        return tuple(THEOREMS.values())
    names = [ids] if isinstance(ids, str) else list(ids)
    require(len(names) > 0, "theorem", names, THEOREMS)
    for name in names:
        require(name in THEOREMS, "theorem", name, THEOREMS)
    return tuple(THEOREMS[name] for name in dict.fromkeys(names))

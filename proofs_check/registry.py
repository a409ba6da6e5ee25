"""Every theorem that can be checked, by id, in order."""

from __future__ import annotations

from collections.abc import Sequence

from dsjax.errors import require
from proofs_check.theorem import Theorem
from proofs_check.theorems import (
    t01_factorisation,
    t02_balance,
    t03_conservation,
    t04_length_invariance,
    t05_sft_length,
    t06_kl_length,
    t07_kl_tax,
    t08_sign,
    t09_imitation,
    t10_accounting,
    t11_soft_optimum,
    t12_grpo,
    t13_length_normalised,
    t14_signal_noise,
    t15_clipping,
)

_MODULES = (
    t01_factorisation,
    t02_balance,
    t03_conservation,
    t04_length_invariance,
    t05_sft_length,
    t06_kl_length,
    t07_kl_tax,
    t08_sign,
    t09_imitation,
    t10_accounting,
    t11_soft_optimum,
    t12_grpo,
    t13_length_normalised,
    t14_signal_noise,
    t15_clipping,
)

THEOREMS: dict[str, Theorem] = {module.THEOREM.id: module.THEOREM for module in _MODULES}


def select(ids: Sequence[str] | None) -> tuple[Theorem, ...]:
    """The theorems of those ids in the given order, each once; all of them for None.

    Raises:
      InputError: for an id that is not in `THEOREMS`, or for an empty selection.
    """
    if ids is None:
        return tuple(THEOREMS.values())
    require(len(ids) > 0, "theorem", list(ids), THEOREMS)
    for name in ids:
        require(name in THEOREMS, "theorem", name, THEOREMS)
    return tuple(THEOREMS[name] for name in dict.fromkeys(ids))

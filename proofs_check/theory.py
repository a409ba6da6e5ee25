"""docs/theory.md: the general chapters from docs/theory.md.j2, the statements from the docstrings of their folders.

python -m proofs_check.theory      writes the page of this checkout
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from proofs_check.statement import STATEMENTS, TAGS
from proofs_check.statistical import ESTIMATORS
from proofs_check.symbolic import SYMBOLIC

PAGE = Path(__file__).parents[1] / "docs" / "theory.md"


def evidence(theorem: str) -> str:
    """The strongest evidence beside the proof: identities in free symbols, or numbers on random instances."""
    proofs = SYMBOLIC.get(theorem, ())
    return f"symbolic, {len(proofs)} proofs" if len(proofs) > 1 else "symbolic, 1 proof" if proofs else "exact numeric"


def symbolic() -> Iterator[tuple[str, str, str]]:
    """(theorem, claim, shapes) of every identity that is proved; what all shapes have in common is said once."""
    every = [proof for proofs in SYMBOLIC.values() for proof in proofs]
    for (theorem, claim), group in groupby(every, key=lambda p: (p.theorem, p.claim)):
        shapes = dict.fromkeys(p.shape.replace(" Q=1", "").replace(" history=full", "") for p in group)
        common = {shape.partition(", ")[2] for shape in shapes}
        ending = f", {common.pop()}" if len(common) == 1 and "" not in common else ""
        yield theorem, claim, "; ".join(shape.removesuffix(ending) for shape in shapes) + ending


def theory() -> str:
    """The page, in Markdown."""
    environment = Environment(
        loader=FileSystemLoader(PAGE.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    environment.filters["cell"] = lambda text: text.replace("|", r"\|")
    facts: dict[str, Any] = {
        "tags": TAGS,
        "statements": STATEMENTS,
        "evidence": evidence,
        "symbolic": symbolic,
        "estimators": ESTIMATORS,
        "proofs": sum(map(len, SYMBOLIC.values())),
    }
    return environment.get_template(f"{PAGE.name}.j2").render(facts)


if __name__ == "__main__":
    PAGE.write_text(theory())

"""docs/theory.md: the general chapters from docs/theory.md.j2, the statements from the docstrings of their folders.

python -m proofs_check.theory      writes the page of this checkout
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from proofs_check.statement import STATEMENTS, TAGS
from proofs_check.symbolic import SYMBOLIC

PAGE = Path(__file__).parents[1] / "docs" / "theory.md"


def evidence(theorem: str) -> str:
    """The strongest evidence beside the proof: identities in free symbols, or numbers on random instances."""
    proofs = SYMBOLIC.get(theorem, ())
    return f"symbolic, {len(proofs)} proofs" if len(proofs) > 1 else "symbolic, 1 proof" if proofs else "exact numeric"


def theory() -> str:
    """The page, in Markdown."""
    environment = Environment(
        loader=FileSystemLoader(PAGE.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    facts: dict[str, Any] = {
        "tags": TAGS,
        "statements": STATEMENTS,
        "evidence": evidence,
        "proofs": sum(map(len, SYMBOLIC.values())),
    }
    return environment.get_template(f"{PAGE.name}.j2").render(facts)


if __name__ == "__main__":
    PAGE.write_text(theory())

"""What a theorem says: the docstring of its folder, read by programs.

    T3 [N] Conservation of reward energy.           id, provenance, title

    *`Var(R) = ...`*                                the statement, proof and precisions, in Markdown

and three constants beside it: PLAIN (about six words), STATEMENT (one line), ASSUMPTIONS.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Literal

from proofs_check.theorems import FOLDERS

Provenance = Literal["[P]", "[P/R]", "[R]", "[N]"]
TAGS: dict[Provenance, str] = {
    "[P]": "a claim of the abstract, in its words",
    "[P/R]": "a claim of the abstract that needs our conventions before it can be checked",
    "[R]": "our precise reconstruction of such a claim: one reading, with its convention",
    "[N]": "ours: a consequence, a limit or a counterexample that the abstract does not state",
}
HEADLINE = re.compile(r"(T\d+) (\[\S+\]) (.+)\.")


@dataclass(frozen=True)
class Statement:
    """A statement in words, with where it comes from.

    Attributes:
      id: `T1`, `T2`, ..
      provenance: tag of docs/theory.md.
      title: as docs/theory.md has it.
      plain: about six words, for a table.
      formula: in a line.
      assumptions: what must hold, in words.
      text: statement, proof, precisions and what is checked, in Markdown.
    """

    id: str
    provenance: str
    title: str
    plain: str
    formula: str
    assumptions: tuple[str, ...] = ()
    text: str = ""

    @property
    def anchor(self) -> str:
        """Where the statement is in docs/theory.md, as Markdown makes anchors of headings."""
        words = f"{self.id} {self.provenance} {self.title}".lower()
        return re.sub(r"[^\w -]", "", words).replace(" ", "-")

    @classmethod
    def of(cls, folder: str) -> Statement:
        """The statement of a theorem's folder, a package's full name.

        Raises:
          ValueError: if its docstring does not begin with id, tag and title.
        """
        module = importlib.import_module(folder)
        headline, _, text = inspect.cleandoc(module.__doc__ or "").partition("\n")
        found = HEADLINE.fullmatch(headline)
        if found is None or found[2] not in TAGS:
            raise ValueError(f"{folder}: the docstring begins with {headline!r}, not with e.g. 'T3 [N] Title.'")
        name, tag, title = found.groups()
        return cls(name, tag, title, module.PLAIN, module.STATEMENT, module.ASSUMPTIONS, text.strip())


STATEMENTS: dict[str, Statement] = {s.id: s for s in map(Statement.of, FOLDERS)}

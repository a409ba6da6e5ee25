"""The report of a whole run as one self-contained HTML page, with its numbers as JSON and its worst instances as files.

DIR/index.html          opens from disk, no network: figures are inline
DIR/report.json         {"version", "provenance", "numeric", "symbolic", "statistical", "boundaries"}
DIR/worst/T7.json       the instance with the largest error relative to its tolerance (see `instance_file`)
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dsjax import explorer
from dsjax.figures.style import styled
from dsjax.io import read_json, write_atomically, write_json
from dsjax.training.run_directory import provenance
from proofs_check.boundaries import BOUNDARIES
from proofs_check.page.mathml import line, mathml
from proofs_check.report import Report
from proofs_check.results import TheoremResult
from proofs_check.statement import TAGS
from proofs_check.statistical import EstimatorResult
from proofs_check.symbolic import ProofResult

VERSION = 1


@dataclass(frozen=True)
class Evidence:
    """Everything that a page shows; kinds that were not run are None."""

    numeric: Report[TheoremResult]
    symbolic: Report[ProofResult] | None = None
    statistical: Report[EstimatorResult] | None = None
    boundaries: dict[str, dict[str, Any]] = field(default_factory=dict)  # theorem id -> measured numbers
    worst: dict[str, dict[str, Any]] = field(default_factory=dict)  # theorem id -> instance file

    @property
    def ok(self) -> bool:
        """Whether everything that was run passed."""
        return all(report is None or report.ok for report in (self.numeric, self.symbolic, self.statistical))


def _number(x: float | None, form: str = ".1e") -> str:
    return "" if x is None else format(x, form)


# Words in code font that are no formulas: names of settings and files.
_NAMES = re.compile(r"full|none|binary|graded|only if|mix|past|[\w/]+\.(py|md)|dsjax\.[\w.]+")


def _inline(text: str) -> Markup:
    """`code`, *emphasis* and [links](elsewhere) in a line; code is a formula, or the name of something."""
    pieces, emphasised = [], False
    for i, piece in enumerate(re.sub(r"\[([^]`]+)\]\([^)]+\)", r"\1", text).split("`")):
        if i % 2:
            pieces.append(Markup("<code>{}</code>").format(piece) if _NAMES.fullmatch(piece) else mathml(piece))
            continue
        for j, words in enumerate(piece.split("*")):
            emphasised ^= j > 0
            mark = ("<em>" if emphasised else "</em>") if j else ""
            pieces.append(Markup(mark) + escape(words))
    return Markup("").join(pieces)


def _marked_up(markdown: str) -> Markup:
    """The little Markdown that statements are written in: paragraphs, formulas on lines of their own, tables."""
    blocks = []
    for block in markdown.split("\n\n"):
        lines = block.splitlines()
        if all(x.startswith("    ") for x in lines):
            blocks += [Markup("<p class=formula>{}</p>").format(mathml(x.strip())) for x in lines]
        elif block.startswith("|"):
            rows = [[_inline(cell.strip()) for cell in x.strip("|").split("|")] for x in lines if "---" not in x]
            cells = [Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row) for row in rows]
            body = Markup("").join(Markup("<tr>{}</tr>").format(row) for row in cells)
            blocks.append(Markup("<div class=wide><table>{}</table></div>").format(body))
        else:
            blocks.append(Markup("<p>{}</p>").format(_inline(block)))
    return Markup("\n").join(blocks)


def _svg(theorem: str, data: dict[str, Any]) -> Markup:
    """The boundary's figure as an inline element, the same bytes for the same numbers."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasSVG(figure)
    out = io.StringIO()
    with styled(), rc_context({"svg.hashsalt": theorem}):
        _boundary(theorem).draw(data, figure)
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return Markup(text[text.index("<svg") :])


def _boundary(theorem: str) -> Any:
    return next(b for b in BOUNDARIES if b.theorem == theorem)


def html(evidence: Evidence) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "marked_up": _marked_up, "formulas": line}

    def rows(report: Report | None, theorem: str) -> list[Any]:
        return [row for row in report.rows if row.theorem == theorem] if report is not None else []

    look = files("proofs_check.page").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        look=explorer.text("look.css"),
        page_look=Markup(look),
        evidence=evidence,
        report=evidence.numeric,
        versions=provenance(),
        tags=TAGS,
        rows=rows,
        svg=_svg,
        map=_boundary,
    )


def write(directory: Path, evidence: Evidence) -> Path:
    """Write page, JSON and worst instances; returns the page's path."""
    (directory / "worst").mkdir(parents=True, exist_ok=True)
    for name, data in evidence.worst.items():
        write_json(directory / "worst" / f"{name}.json", data)
    symbolic, statistical = evidence.symbolic, evidence.statistical
    write_json(
        directory / "report.json",
        {
            "version": VERSION,
            "ok": evidence.ok,
            "provenance": provenance(),
            "numeric": evidence.numeric.to_json(),
            "symbolic": symbolic and symbolic.to_json(),
            "statistical": statistical and statistical.to_json(),
            "boundaries": evidence.boundaries,
        },
    )
    write_atomically(directory / "index.html", html(evidence).encode())
    return directory / "index.html"


def load(path: Path) -> dict[str, Any]:
    """The JSON of a written report."""
    return read_json(path / "report.json")

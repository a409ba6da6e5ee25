"""The report of a whole run as one self-contained HTML page, with its numbers as JSON and its worst instances as files.

DIR/index.html          opens from disk, no network: figures are inline
DIR/report.json         {"version", "provenance", "numeric", "symbolic", "statistical", "boundaries"}
DIR/worst/T7.json       the instance with the largest error relative to its tolerance (see `instance_file`)
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dsjax.io import read_json, write_atomically, write_json
from dsjax.training.run_directory import provenance
from proofs_check.boundaries import BOUNDARIES
from proofs_check.registry import select
from proofs_check.report import Report, TheoremResult

VERSION = 1
TAGS = {
    "[P]": "a claim of the abstract, in its words",
    "[P/R]": "a claim of the abstract that needs our conventions before it can be checked",
    "[R]": "our precise reconstruction of such a claim",
    "[N]": "ours: a consequence, a limit or a counterexample that the abstract does not state",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1a1a1a; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 1.2rem; font-size: .88rem; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.statement { font-style: italic; } .tag { font-weight: 600; } .bad { color: #b00020; font-weight: 700; }
.figure svg { max-width: 100%; height: auto; } code { font-size: .9em; } .small { font-size: .88rem; color: #444; }
"""


@dataclass(frozen=True)
class Evidence:
    """Everything that a page shows; kinds that were not run are None."""

    numeric: Report
    symbolic: dict[str, Any] | None = None  # SymbolicReport.to_json()
    statistical: dict[str, Any] | None = None  # StatisticalReport.to_json()
    boundaries: dict[str, dict[str, Any]] = field(default_factory=dict)  # theorem id -> measured numbers
    worst: dict[str, dict[str, Any]] = field(default_factory=dict)  # theorem id -> instance file

    @property
    def ok(self) -> bool:
        """Whether everything that was run passed."""
        others = (self.symbolic, self.statistical)
        return self.numeric.ok and all(other is None or bool(other["ok"]) for other in others)


def _row(cells: list[tuple[str, bool]], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}{' class=n' if n else ''}>{text}</{tag}>" for text, n in cells) + "</tr>"


def _table(columns: list[tuple[str, bool]], rows: list[list[str]]) -> str:
    """`columns`: (header, whether it holds numbers). Cells are HTML."""
    numeric = [n for _, n in columns]
    body = "".join(_row(list(zip(row, numeric, strict=True))) for row in rows)
    return f"<table><thead>{_row(columns, 'th')}</thead><tbody>{body}</tbody></table>"


def _number(x: float | None, form: str = ".1e") -> str:
    return "" if x is None else format(x, form)


def _verdict(good: bool, yes: str, no: str) -> str:
    return yes if good else f"<span class=bad>{no}</span>"


def _svg(theorem: str, data: dict[str, Any]) -> str:
    """The boundary's figure as an inline element, the same bytes for the same numbers."""
    boundary = next(b for b in BOUNDARIES if b.theorem == theorem)
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasSVG(figure)
    out = io.StringIO()
    with rc_context({"svg.hashsalt": theorem, "svg.fonttype": "path"}):
        boundary.draw(data, figure)
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _rows_of(report: dict[str, Any] | None, key: str, theorem: str) -> list[dict[str, Any]]:
    return [] if report is None else [row for row in report[key] if row["theorem"] == theorem]


def _numeric(result: TheoremResult) -> list[str]:
    claims = [
        [
            escape(c.name),
            _number(c.worst_error),
            _number(c.tolerance),
            _number(c.smallest_margin),
            escape(f"{c.worst.shape}, number {c.worst.index}"),
            _verdict(c.ok, "holds", "FAILED"),
        ]
        for c in result.claims
    ]
    controls = [
        [
            escape(c.name),
            str(c.instances),
            _number(c.smallest_error),
            _number(c.tolerance),
            _verdict(c.rejected, "rejected", "NOT REJECTED"),
        ]
        for c in result.controls
    ]
    speed = result.rate or float("inf")
    columns = [("claim", False), ("worst error", True), ("tolerance", True), ("smallest margin", True)]
    wrong = [("control: a wrong variant", False), ("instances", True), ("smallest error", True), ("tolerance", True)]
    return [
        f"<h3>Exact numeric: {result.instances} random instances</h3>",
        _table([*columns, ("worst instance", False), ("", False)], claims),
        _table([*wrong, ("", False)], controls),
        f"<p class=small>{result.compile_seconds:.1f} s compiling, {result.run_seconds:.1f} s running: "
        f"{speed:,.0f} instances a second.</p>",
    ]


def _section(result: TheoremResult, evidence: Evidence) -> str:
    (theorem,) = select([result.id])
    parts = [
        f'<h2 id="{result.id}">{result.id} <span class=tag>{escape(result.provenance)}</span>',
        f"{escape(result.title)}</h2>",
        f"<p class=statement>{escape(result.statement)}</p>",
        "<p>Assumptions:</p><ul>" + "".join(f"<li>{escape(a)}</li>" for a in theorem.assumptions) + "</ul>",
        f"<p>Proof sketch. {escape(theorem.proof)} The whole proof, with precisions: <code>docs/theory.md</code>.</p>",
        *_numeric(result),
    ]
    if result.id in evidence.worst:
        name = f"worst/{result.id}.json"
        parts.append(
            f'<p>Worst instance, relative to its tolerance: <a href="{name}">{name}</a>. Check exactly that one with '
            f"<code>dsjax check --theorem {result.id} --instance-file {name}</code>.</p>"
        )
    symbolic = _rows_of(evidence.symbolic, "proofs", result.id)
    if symbolic:
        parts.append("<h3>Symbolic: an identity in free symbols, a proof for that shape</h3>")
        parts.append(
            _table(
                [("claim", False), ("shape", False), ("", False), ("control", False), ("s", True)],
                [
                    [
                        escape(row["claim"]),
                        escape(row["shape"]),
                        _verdict(row["status"] == "proved", "proved", "FAILED"),
                        _verdict(row["control_rejected"], "rejected", "NOT REJECTED"),
                        _number(row["seconds"], ".1f"),
                    ]
                    for row in symbolic
                ],
            )
        )
    statistical = _rows_of(evidence.statistical, "rows", result.id)
    if statistical:
        parts.append("<h3>Statistical: sampled estimators against exact expectations</h3>")
        columns = [("estimator", False), ("claim", False), ("p (Holm)", True), ("bias it would have seen", True)]
        parts.append(
            _table(
                [*columns, ("", False), ("control", False)],
                [
                    [
                        escape(row["estimator"]),
                        escape(row["claim"]),
                        _number(row["p_holm"], ".2g"),
                        _number(row["detectable_bias"], ".2g"),
                        _verdict(row["status"] == "ok", "not rejected", "FAILED"),
                        _verdict(row["control_rejected"], "rejected", "NOT REJECTED"),
                    ]
                    for row in statistical
                ],
            )
        )
    if result.id in evidence.boundaries:
        data = evidence.boundaries[result.id]
        boundary = next(b for b in BOUNDARIES if b.theorem == result.id)
        parts.append(f"<h3>Boundary: {escape(boundary.title)}</h3><p>{escape(data['summary'])}</p>")
        if data.get("worst_error") is not None:
            parts.append(f"<p class=small>Closed form against measured: worst error {data['worst_error']:.1e}.</p>")
        parts.append(f"<div class=figure>{_svg(result.id, data)}</div>")
    return "\n".join(parts)


def html(evidence: Evidence) -> str:
    """The page."""
    report, versions = evidence.numeric, provenance()
    summary = _table(
        [("", False), ("statement", False), ("tag", False), ("worst error", True), ("control", False), ("", False)],
        [
            [
                f'<a href="#{t.id}">{t.id}</a>',
                escape(t.statement),
                escape(t.provenance),
                _number(t.worst_error),
                _verdict(t.control_rejected, "rejected", "NOT REJECTED"),
                _verdict(t.ok, "holds", "FAILED"),
            ]
            for t in report.theorems
        ],
    )
    tags = _table([("tag", False), ("meaning", False)], [[escape(k), escape(v)] for k, v in TAGS.items()])
    packages = ", ".join(f"{k} {v}" for k, v in versions["packages"].items())
    sections = "\n".join(_section(t, evidence) for t in report.theorems)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>dsjax: theorem checks</title><style>{STYLE}</style></head><body>
<h1>Theorem checks: {"everything holds" if evidence.ok else "<span class=bad>something failed</span>"}</h1>
<p>Statements about how a gradient is shared between <code>pi_sample</code> (writes an answer) and <code>pi_d</code>
(STOP or RESAMPLE), checked on random processes in float64. The starting point is the abstract of arXiv 2601.01580; only
that abstract is known here. A statement that holds here holds <em>as worded here</em>.</p>
{tags}
<p>An error is a distance from the statement; its tolerance is argued from machine precision. A margin is the slack of
an inequality. A control is a wrong variant that the check must reject on every instance it applies to.</p>
{summary}
<p class=small>Seed {report.seed}, {report.instances} instances per theorem, {report.seconds:.0f} s;
{escape(packages)}, Python {versions["python"]}, dsjax {versions["dsjax"]}.</p>
{sections}
</body></html>
"""


def write(directory: Path, evidence: Evidence) -> Path:
    """Write page, JSON and worst instances; returns the page's path."""
    (directory / "worst").mkdir(parents=True, exist_ok=True)
    for name, data in evidence.worst.items():
        write_json(directory / "worst" / f"{name}.json", data)
    write_json(
        directory / "report.json",
        {
            "version": VERSION,
            "ok": evidence.ok,
            "provenance": provenance(),
            "numeric": evidence.numeric.to_json(),
            "symbolic": evidence.symbolic,
            "statistical": evidence.statistical,
            "boundaries": evidence.boundaries,
        },
    )
    write_atomically(directory / "index.html", html(evidence).encode())
    return directory / "index.html"


def load(path: Path) -> dict[str, Any]:
    """The JSON of a written report."""
    return read_json(path / "report.json")

"""The one report: how it fits a terminal, and what every kind of evidence makes of numbers that are not finite."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from proofs_check.report import Report, strict
from proofs_check.results import ClaimResult, ControlResult, TheoremResult, Worst, numeric_report
from proofs_check.statement import STATEMENTS
from proofs_check.symbolic import ProofResult

PROOF = ProofResult("T3", "[x + y]^2", "one number", "x, y", 1, 0, "x = y", True, 0.1)


def theorem(about, error=1.2e-15, rejected=True):
    claims = (ClaimResult("claim", error, 1e-12, -3.4e-16, False, Worst("shape", 7)),)
    return TheoremResult(about, 1000, claims, (ControlResult("control", 1000, float(rejected), 1e-12),), 100.0, 4.5)


def printed(report, width=80):
    stream = io.StringIO()
    report.print(Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize(("rejected", "error"), [(True, 0.0), (False, 1.0)])
def test_theorems_fit_80_columns_in_two_lines_each(rejected, error):
    rows = [theorem(about, error, rejected) for about in STATEMENTS.values()]
    lines = printed(numeric_report(0, 1000, rows, 1.0)).splitlines()
    assert max(map(len, lines)) <= 80
    first = next(i for i, line in enumerate(lines) if "───" in line) + 1
    body = lines[first : lines.index(" " * 80, first)]
    starts = [i for i, line in enumerate(body) if line[1] == "T"] + [len(body)]
    assert len(starts) == len(STATEMENTS) + 1
    for about, first, last in zip(STATEMENTS.values(), starts[:-1], starts[1:], strict=True):
        assert last - first <= (2 if rejected else 3)
        words = " ".join(body[first:last]).split()
        assert set(about.plain.split()) | {about.id, about.provenance, "1000", "104"} <= set(words)
        assert about.formula not in " ".join(words)


def test_nothing_is_not_a_pass():
    assert not Report(TheoremResult, (), 0.0).ok
    assert not Report(ProofResult, (), 0.0).ok
    assert Report(ProofResult, (PROOF,), 0.0).ok


def test_the_envelope_is_the_same_for_all_kinds():
    numeric = numeric_report(3, 5, [theorem(STATEMENTS["T3"])], 1.0, {"T9": ("a binary verifier",)}).to_json()
    settings = {"seed", "instances", "skipped", "prompts_left_out"}
    assert set(numeric) == {"version", "ok", "seconds", "theorems"} | settings
    assert numeric["skipped"] == {"T9": ["a binary verifier"]}
    assert set(Report(ProofResult, (PROOF,), 0.0).to_json()) == {"version", "ok", "seconds", "proofs"}
    assert numeric["theorems"][0]["claims"][0]["worst_instance"] == {"shape": "shape", "index": 7}


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(x):
    assert strict({"a": [x, 1.0, "text"], "b": (x,)}) == {"a": [None, 1.0, "text"], "b": [None]}
    row = theorem(STATEMENTS["T3"], error=x if x > 0 else math.inf).to_json()
    assert (row["status"], row["worst_error"]) == ("failed", None)
    json.dumps(row, allow_nan=False)


def test_brackets_are_text():
    assert "[x + y]^2" in printed(Report(ProofResult, (replace(PROOF, failed=1),), 0.0))


def test_a_row_of_a_table_is_plain_words_on_two_lines_at_most():
    """The formula is for the page."""
    for about in STATEMENTS.values():
        rows = printed(Report(ProofResult, (replace(PROOF, theorem=about.id),), 0.0)).splitlines()
        cells = rows[rows.index(next(x for x in rows if x.strip().startswith("──"))) + 1 : -1]
        assert len([x for x in cells if x.strip()]) <= 2
        assert max(map(len, rows)) <= 80
        assert PROOF.claim not in "".join(rows)

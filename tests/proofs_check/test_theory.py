"""docs/theory.md is what its template and the docstrings of the theorems say, and letters keep their meaning."""

from __future__ import annotations

import re

import pytest

from proofs_check.registry import THEOREMS
from proofs_check.statement import STATEMENTS, TAGS, Statement
from proofs_check.statistical import ESTIMATORS
from proofs_check.symbolic import SYMBOLIC
from proofs_check.theory import PAGE, theory

# Rows of the table of letters that formulas elsewhere use for several things: letter, statements that use it.
LETTERS = re.findall(r"^\| `(\w+)` \| .+ \| (T[\dT, ]+) \|$", PAGE.read_text(), re.MULTILINE)


def letters(markdown):
    """Names in the formulas."""
    return {name for formula in markdown.split("`")[1::2] for name in re.findall(r"[A-Za-z]+", formula)}


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == theory(), "run `make theory`"


def test_every_folder_has_a_statement():
    assert STATEMENTS.keys() == THEOREMS.keys() >= SYMBOLIC.keys() | {e.theorem for e in ESTIMATORS}


@pytest.mark.parametrize("s", STATEMENTS.values(), ids=lambda s: s.id)
def test_statements_are_whole(s):
    assert s.provenance in TAGS
    assert 4 <= len(s.plain.split()) <= 8
    assert "\n" not in s.formula
    assert s.assumptions
    assert s.text.startswith("*")  # the statement is in italics
    assert "\nProof. " in s.text
    assert "\nChecked (`numeric.py`)" in s.text
    assert "Controls: " in " ".join(s.text.split())
    page = PAGE.read_text()
    assert f"\n## {s.id} {s.provenance} {s.title}\n\n{s.text}\n" in page
    assert f"\n| [{s.id}](#{s.anchor}) | {s.provenance} | {s.plain} |" in page


def test_the_letters_that_once_had_several_meanings_are_in_the_table():
    assert {"w", "omega", "W", "rho", "zeta", "b", "base", "delta", "dz"} <= {letter for letter, _ in LETTERS}


@pytest.mark.parametrize(("letter", "statements"), LETTERS)
def test_a_letter_is_used_where_its_one_meaning_is(letter, statements):
    used = [s.id for s in STATEMENTS.values() if letter in letters(f"{s.text} `{s.formula}`")]
    assert used == statements.split(", ")


def test_means_over_tokens_have_their_own_names():
    """The token mean is SFT's, over a whole batch; GRPO's is that of each sequence."""
    assert "oken mean" not in STATEMENTS["T12"].text + STATEMENTS["T13"].text
    assert "oken-mean GRPO" not in PAGE.read_text()


def test_a_docstring_without_headline_is_refused():
    with pytest.raises(ValueError, match=r"tests\.proofs_check: the docstring begins with ''"):
        Statement.of("tests.proofs_check")

"""Formulas of the statements as MathML."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from proofs_check.page import _NAMES, _marked_up
from proofs_check.page.mathml import FUNCTIONS, GREEK, SIGNS, line, mathml
from proofs_check.statement import STATEMENTS


def said(markup: str) -> str:
    """What a reader sees, without spaces."""
    return "".join(ElementTree.fromstring(f"<p>{markup}</p>").itertext()).replace(" ", "")


def formulas() -> list[str]:
    found = []
    for about in STATEMENTS.values():
        spans = (" ".join(x.split()) for x in re.findall(r"`([^`]+)`", about.text))
        found += [x for x in spans if not _NAMES.fullmatch(x)]
        found += [x.strip() for x in about.text.splitlines() if x.startswith("    ")]
    return sorted(set(found))


def test_every_formula_of_the_statements_is_read_whole():
    """All its letters and digits arrive, nothing is left of the notation, and brackets match."""
    found = formulas()
    assert len(found) > 700
    spelled = {sign: name for name, sign in {**GREEK, **SIGNS, "in": "∈"}.items()}
    for text in found:
        seen = said(mathml(text))
        assert not re.search(r"[_^]|->|<=|>=|sqrt", seen), text
        back = "".join(spelled.get(x, x) for x in seen)
        alike = [x.replace("epsilon", "eps").replace("sqrt", "") for x in (back, text)]
        letters = [sorted(re.findall("[A-Za-z0-9]", x)) for x in alike]
        assert letters[0] == letters[1], text


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("k_d", "<msub><mi>k</mi><mrow><mi>d</mi></mrow></msub>"),
        ("V*_1", "<msubsup><mi>V</mi><mrow><mn>1</mn></mrow><mrow><mo>∗</mo></mrow></msubsup>"),
        ("K_(t+1)", "<msub><mi>K</mi><mrow><mrow><mi>t</mi><mo>+</mo><mn>1</mn></mrow></mrow></msub>"),
        ("sqrt(2)", "<msqrt><mrow><mn>2</mn></mrow></msqrt>"),
        ("p~", "<mover><mi>p</mi><mo>~</mo></mover>"),
        ("chi2", "<msup><mi>χ</mi><mrow><mn>2</mn></mrow></msup>"),
        ("F^+", "<msup><mi>F</mi><mrow><mo>+</mo></mrow></msup>"),
    ],
)
def test_notation(text, markup):
    assert mathml(text) == f"<math>{markup}</math>"


def test_words_stay_words_and_lines_can_break():
    assert said(line("a wrong answer & b")) == "awronganswer&b"
    assert line("a wrong answer & b") == "a wrong answer &amp; b"
    assert mathml("x = 1 + y").count("<math>") == 3
    assert "<math>" not in line("one scalar weight per trajectory")
    assert line("a > b").count("<mi>") == 2


@pytest.mark.parametrize("text", ["f(x", "x)", "a ? b", "x_", "(a]("])
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(ValueError, match="no formula"):
        mathml(text)


def test_blocks_of_a_statement():
    text = _marked_up("*Let `x` be*\n\n    x = 1\n\n| a | b |\n|---|---|\n| `y` | [there](x.md) |\n\nsee `numeric.py`")
    assert text.count("<p class=formula>") == 1
    assert text.count("<td>") == 4
    assert "there" in text
    assert "x.md" not in text
    assert "<code>numeric.py</code>" in text
    assert all(name not in said(mathml("log x")) for name in FUNCTIONS - {"log"})


def test_a_name_between_backticks_is_code_in_a_line():
    assert line("history `full`; r < V") == "history <code>full</code>; r &lt; V"
    assert line("history `a<b`") == "history <code>a&lt;b</code>"  # not let through as markup
    assert "<code>" not in line("r < V")

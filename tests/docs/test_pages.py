"""Pages that people write: short lines, what a reader gets first; the twelve terms; the notebooks run."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[2]
# Of the template and the docstrings of the theorems; of the stored results (`experiments.pages`).
MADE = {ROOT / "docs" / "theory.md", ROOT / "docs" / "results.md", *ROOT.glob("docs/results/*.md")}
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/*.j2")} - MADE)
HAND = [page for page in PAGES if "generated" not in page.parts]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.md"))
LONGEST = 120
MADE_PART = re.compile(r"<!-- tables: .*?<!-- end of the tables -->", re.DOTALL)  # written by a program, and compared
# Rows that cannot be shorter: their cells are those of stored results, of the registry, or of statements.
ROWS = {"experiments.md": r"\|", "objectives.md": r"\| (`\w+`|name|---) \|", "theory.md.j2": r"\| (T\d|\(i\)|\{\{)"}


def long_lines(page: Path) -> list[str]:
    """What is longer than a line may be."""
    rows = ROWS.get(page.name)
    lines = MADE_PART.sub("", page.read_text()).splitlines()
    return [x for x in lines if len(x) > LONGEST and not (rows and re.match(rows, x))]


def cells(page: Path) -> list[str]:
    """The code of a notebook."""
    return re.findall(r"^```\{code-cell\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", HAND, ids=lambda page: page.name)
def test_lines_are_short(page):
    assert not long_lines(page)


def test_a_long_line_is_noticed(tmp_path):
    page = tmp_path / "objectives.md"
    page.write_text(f"| `grpo` | {'x' * 120} |\n| option | {'x' * 120} |\n")
    assert [line[:9] for line in long_lines(page)] == ["| option "]


@pytest.mark.parametrize("page", HAND, ids=lambda page: page.name)
def test_a_page_begins_with_what_one_gets(page):
    text = page.read_text()
    if page.name not in ("README.md", "CHANGELOG.md") and "```{include}" not in text:
        assert re.match(r"(---\n.*?\n---\n\n)?# .+\n\nYou get: ", text, re.DOTALL)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_a_notebook_has_a_picture(page):
    assert "plt.show()" in cells(page)[-1] + cells(page)[-2]


def test_the_glossary_has_twelve_terms_and_is_linked():
    terms = re.findall(r"^\*\*(\d+)\. ", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert terms == [str(n) for n in range(1, 13)]
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()
    assert "\nglossary\n" in (ROOT / "docs" / "index.md").read_text()


def test_notebooks_run(monkeypatch, capsys):
    """As a reader runs them: with JAX's own settings, and nothing shared between two notebooks."""
    monkeypatch.setattr(plt, "show", plt.close)
    assert len(NOTEBOOKS) >= 3
    found = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for page in NOTEBOOKS:
            names: dict = {}
            for cell in cells(page):
                exec(compile(cell, str(page), "exec"), names)
            found[page.stem[3:]] = names
    assert capsys.readouterr().out
    # What the texts say of them.
    idea = found["idea"]
    assert float(idea["accuracy"][0]) == pytest.approx(0.25)
    assert float(sum(idea["parts"])) == pytest.approx(float(idea["accuracy"][-1] - idea["accuracy"][0]), abs=1e-5)
    own, sft = found["starve"]["rows"]
    assert all(1 / 3 < share < 0.4 for share in own.shares.values())
    assert own.classes.filler == "tilted"
    assert (sft.verdicts["energy"], sft.classes.filler) == ("unbalanced", "per token")
    ratios = [after / before for before, after in pairwise(sft.shares.values())]
    assert ratios == sorted(ratios, reverse=True)  # each doubling takes more, in the end half
    assert 0.5 < ratios[-1] < 0.6
    parts = found["components"]["found"]
    assert parts["sampler"].value + parts["decider"].value == pytest.approx(parts["both"].value)
    assert parts["both"].low > 0  # the arm gained

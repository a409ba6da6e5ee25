"""Modules, objects and files that the documentation names are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FILE = re.compile(r"(?<![\w/.])(?:dsjax|proofs_check|tests|experiments|docs)(?:/[\w-]+)+\.(?:py|md)")
DOTTED = re.compile(r"(?<![\w/.-])(?:dsjax|proofs_check)(?:\.[A-Za-z_]\w*)+(?![\w/])")


def resolves(dotted: str) -> bool:
    """Whether it is a module, or a chain of attributes of one."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as missing:
            if missing.name and missing.name.split(".")[0] not in ("dsjax", "proofs_check"):
                return True  # it is there, and imports what only some have: torch
            continue
        for name in parts[n:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    lost = [name for name in set(FILE.findall(text)) if not (ROOT / name).exists()]
    lost += [name for name in set(DOTTED.findall(text)) if not resolves(name)]
    assert not lost


def test_a_name_that_is_not_there_is_noticed():
    assert DOTTED.findall("a list of `dsjax.jobs.Job`, see") == ["dsjax.jobs.Job"]
    assert not resolves("dsjax.jobs.Job")
    assert not resolves("dsjax.study.jobs.Task")
    assert resolves("dsjax.study.jobs.Job")
    assert FILE.findall("in `dsjax/run_directory.py`.") == ["dsjax/run_directory.py"]

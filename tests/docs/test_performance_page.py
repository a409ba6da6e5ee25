"""The tables of docs/performance.md are those of the stored benchmark results."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).parents[2] / "experiments" / "bench" / "page.py"


def test_tables_are_those_of_the_stored_results():
    spec = importlib.util.spec_from_file_location("page", FILE)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.between(page.PAGE.read_text()) == page.text()

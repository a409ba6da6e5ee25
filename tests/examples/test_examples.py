"""The examples run from anywhere, print what they are about, and are short."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "01_objective": "of the energy",
    "02_rollouts": "decision",
    "03_theorem": "T3",
    "04_own_task": "'accuracy': ",
    "05_train": "'accuracy': ",
}


def lines_of_code(source: str) -> int:
    """Without empty lines, comments and docstrings."""
    texts = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    left_out = {i for n in texts for i in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.split("#")[0].strip()) and i not in left_out for i, line in lines)


def test_every_example_is_listed():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_outside_of_the_checkout(name, tmp_path):
    file = ROOT / "examples" / f"{name}.py"
    assert lines_of_code(file.read_text()) <= 25
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(file)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert EXAMPLES[name] in done.stdout
    assert not list(tmp_path.iterdir())  # and leaves nothing behind

"""`dsjax figures`: every figure of a finished study, again, from its stored numbers."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from dsjax.cli.flags import List
from dsjax.cli.terminal import require_directory, terminal, waiting


def figures(run: Positional[Path] = Path("runs/quickstart"), *, out: Path | None = None, arms: List = ()) -> int:
    """Draw every figure of a finished study again, from its stored numbers.

    Args:
      run: Directory with results.json, or that file.
      out: Where to; next to the results by default.
      arms: Arms in the figures, in this order; by default those that the study names, or all.
    """
    from dsjax.figures import draw
    from dsjax.io import interpreted
    from dsjax.study.results import WHAT, read_results, report_of
    from proofs_check.theorems.t07_kl_tax.boundary import draw as draw_kl_tax

    file, results = read_results("run", run)
    report, console = report_of(results, "run", run), terminal()
    require_directory("out", out)
    with waiting(console, "Drawing"), interpreted("run", file, WHAT):
        written = draw(report, file.parent if out is None else out, arms, draw_kl_tax)
    for path in written:
        console.print(str(path), soft_wrap=True)
    return 0

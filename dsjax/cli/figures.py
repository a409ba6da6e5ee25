"""`dsjax figures`: every figure of a finished study, again, from its stored numbers."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from dsjax.cli.flags import List
from dsjax.cli.terminal import require_directory, terminal, waiting
from dsjax.errors import require


def figures(run: Positional[Path] = Path("runs/quickstart"), *, out: Path | None = None, arms: List = ()) -> int:
    """Draw every figure of a finished study again, from its stored numbers.

    Args:
      run: Directory with results.json, or that file; or one whose folders have such: the figures about all of them.
      out: Where to; next to the results by default.
      arms: Arms in the figures, in this order; by default those that the study names, or all.
    """
    from dsjax.figures import draw, draw_regimes
    from dsjax.io import interpreted
    from dsjax.study.results import WHAT, read_results, report_of, stored_below
    from proofs_check.theorems.t07_kl_tax.boundary import draw as draw_kl_tax

    console, below = terminal(), stored_below(run)
    if below:
        require(not arms, "arms", arms, "nothing, for several studies")
        stored = {name: read_results("run", folder)[1].get("report") or {} for name, folder in below.items()}
        reports = {name: report for name, report in stored.items() if "histories" in report}
        require(bool(reports), "run", str(run), "a folder with results of studies of trainings")
        out = run if out is None else out
        require_directory("out", out)
        with waiting(console, "Drawing"), interpreted("run", run, WHAT):
            written = draw_regimes(reports, out)
    else:
        file, results = read_results("run", run)
        report, name = report_of(results, "run", run), f"{results.get('study')}-{results.get('preset')}"
        out = file.parent if out is None else out
        require_directory("out", out)
        with waiting(console, "Drawing"), interpreted("run", file, WHAT):
            written = draw(report, out, arms, draw_kl_tax, name)
    for path in written:
        console.print(str(path), soft_wrap=True)
    return 0

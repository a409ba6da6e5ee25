"""`dsjax figures`: every figure of a finished run or study, again, from its stored numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tyro.conf import Positional

from dsjax.cli.flags import List
from dsjax.cli.results import read_results, study_report
from dsjax.cli.terminal import terminal, waiting
from dsjax.errors import require

RUN = ("config", "lengths", "curves", "evaluation", "swap", "accounting")


def figures(run: Positional[Path] = Path("runs/quickstart"), *, out: Path | None = None, arms: List = ()) -> int:
    """Draw every figure of a finished run or study again, from its stored numbers.

    Args:
      run: Directory with results.json, or that file.
      out: Where to; next to the results by default.
      arms: Arms in the figures of a study, in this order; by default those that the study names, or all.
    """
    file, results = read_results("run", run)
    out = file.parent if out is None else out
    report, console = study_report(results), terminal()
    with waiting(console, "Drawing"):
        if report is not None:
            from dsjax.figures.study import draw
            from proofs_check.theorems.t07_kl_tax.boundary import draw as draw_kl_tax

            files = draw(report, out, arms, draw_kl_tax)
        else:
            from dsjax.figures.style import draw_figures

            require(not arms, "arms", arms, "nothing, for a run: all its arms are drawn")
            missing = [name for name in RUN if not isinstance(results, Mapping) or name not in results]
            allowed = f"the results of a finished run or study ({file.name} has no {', '.join(missing)})"
            require(not missing, "run", str(run), allowed)
            files = draw_figures(results, out)
    for written in files:
        console.print(str(written), soft_wrap=True)
    return 0

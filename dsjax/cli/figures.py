"""`dsjax figures`: every figure of a finished run or study, again, from its stored numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from dsjax.cli.results import read_results, study_report
from dsjax.errors import require

RUN = ("config", "lengths", "curves", "evaluation", "swap", "accounting")


def figures(
    path: Path,
    out: Path | None,
    shown: tuple[str, ...],
    console: Console,
    kl_tax: Callable[[dict[str, Any], Figure], None],
) -> int:
    """Draw them and print the files.

    Args:
      path: results.json of a run or of a study, or the directory that it is in.
      out: where to; next to the results by default.
      shown: arms in the figures of a study; by default those that the study names, or all.
      console: for the names of the files.
      kl_tax: draws F3.

    Raises:
      InputError: if there are no such results, or not of such an arm.
    """
    file, results = read_results("run", path)
    out = file.parent if out is None else out
    report = study_report(results)
    if report is not None:
        from dsjax.figures.study import draw

        files = draw(report, out, shown, kl_tax)
    else:
        from dsjax.figures.style import draw_figures

        require(not shown, "arms", shown, "nothing, for a run: all its arms are drawn")
        missing = [name for name in RUN if not isinstance(results, Mapping) or name not in results]
        allowed = f"the results of a finished run or study ({file.name} has no {', '.join(missing)})"
        require(not missing, "run", str(path), allowed)
        files = draw_figures(results, out)
    for written in files:
        console.print(str(written), highlight=False)
    return 0

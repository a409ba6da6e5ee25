"""Every figure of a study, from its stored numbers alone: one decorated function each, drawn by one loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsjax.errors import require
from dsjax.figures import atlas, causes, gradients, regimes, study  # noqa: F401  importing registers their figures
from dsjax.figures.style import FIGURES, Painter, Source, styled, write
from dsjax.io import require_name
from dsjax.training.config import BASE


def draw(
    report: Mapping[str, Any],
    directory: Path,
    shown: Sequence[str] = (),
    kl_tax: Painter | None = None,
    name: str = "study",
) -> list[Path]:
    """Draw every figure that the report has something for, as PNG, SVG and CSV; returns the files.

    Args:
      report: of `dsjax.study.report`, as results store it.
      directory: where; made if it is not there.
      shown: arms in the figures, in this order; by default those that the study names, or all. The CSV files always
        have all.
      kl_tax: puts the numbers of F3 on an empty figure; without it F3 is left out.
      name: of the study, in figures that may show several.

    Raises:
      InputError: for an arm that the report does not have.
    """
    known = {m for entry in report["histories"].values() for m in entry["models"]} - {BASE}
    for arm in shown:
        require(arm in known, "arms", arm, sorted(known))
    sources = {"": Source(report["theory"], kl_tax=kl_tax, regimes={name: report})}
    for history, entry in report["histories"].items():
        arms = [m for m in entry["models"] if m != BASE]
        some = [arm for arm in shown or report.get("shown", ()) if arm in arms] or arms
        sources[f"_{history}"] = Source(report["theory"], entry, tuple(some))
    return _drawn(sources, directory)


def draw_regimes(reports: Mapping[str, Mapping[str, Any]], directory: Path) -> list[Path]:
    """Draw the figures about several studies, from their reports by name; returns the files."""
    return _drawn({"": Source({}, regimes=reports)}, directory)


def _drawn(sources: Mapping[str, Source], directory: Path) -> list[Path]:
    """Every figure that one of the sources, by the end of its file's name, has something for."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with styled():
        for suffix, source in sources.items():
            for name, (of, make) in sorted(FIGURES.items()):
                require_name("name of a figure", f"{name}{suffix}")
                drawn = make(source) if (of != "history") == (not suffix) else None
                if drawn is not None:
                    written += write(directory / f"{name}{suffix}", drawn.figure, drawn.rows)
    return written

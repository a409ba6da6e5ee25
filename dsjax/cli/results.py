"""Reading the results of a finished run or study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsjax.io import read_json

NAME = "results.json"
PACKED = f"{NAME}.gz"


def read_results(field: str, path: Path) -> tuple[Path, Any]:
    """(file, its data) of results.json, packed with gzip or not, or of the directory that it is in.

    Raises:
      InputError: naming the field, if there is no such file or it is not JSON.
    """
    file = path
    if path.is_dir():
        file = path / (PACKED if (path / PACKED).exists() and not (path / NAME).exists() else NAME)
    return file, read_json(file, field, "the results of a finished run or study")


def study_report(results: Any) -> Mapping[str, Any] | None:
    """The report in the results of an arithmetic study; None in those of anything else."""
    report = results.get("report") if isinstance(results, Mapping) else None
    return report if isinstance(report, Mapping) and "histories" in report else None

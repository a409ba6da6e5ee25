"""`results.json` of a study (docs/results.md): format 2 is written from the files of its jobs, 1 and 2 are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsjax.config import from_dict, import_function
from dsjax.errors import InputError, require
from dsjax.io import read_json
from dsjax.study.jobs import Definition, Study, merge
from dsjax.training.config import TrainConfig

FORMAT = 2
NAME = "results.json"
PACKED = f"{NAME}.gz"
WHAT = "the results of a finished study"


def collect(study: Study, definition: Definition) -> dict[str, Any]:
    """Everything about the jobs that are done, with the report of the definition."""
    merged = merge(study)
    records = {name: study.record(name) for name in merged["jobs"]}
    texts = sorted({json.dumps(record["provenance"], sort_keys=True) for record in records.values()})
    results = {
        "format": FORMAT,
        "hypotheses": list(definition.hypotheses),
        "provenance": [json.loads(text) for text in texts],
        "seconds": {name: record["seconds"] for name, record in records.items()},
        **merged,
    }
    if definition.report is not None:
        function = import_function("report of the study", definition.report)
        results["report"] = function(merged, study.path, definition)
    return results


def read_results(field: str, path: Path) -> tuple[Path, dict[str, Any]]:
    """(file, its data in format 2) of results.json, packed with gzip or not, or of the directory that it is in.

    Raises:
      InputError: naming the field, if there is no such file, it is not JSON, or holds something else.
    """
    file = path
    if path.is_dir():
        file = path / (PACKED if (path / PACKED).exists() and not (path / NAME).exists() else NAME)
    data = read_json(file, field, WHAT)
    found = data.get("format") if isinstance(data, dict) else None
    allowed = f"{WHAT}, format 1 or {FORMAT}"
    if found == 1 and {"lengths", "accounting"} <= data.keys():
        allowed += "; this is of `dsjax quickstart` 0.1.0, whose figures that version draws"
    require(found in (1, FORMAT) and "jobs" in data, field, str(path), allowed)
    try:
        return file, _from_1(data) if found == 1 else data
    except (KeyError, TypeError) as error:
        raise InputError(field, str(path), f"{allowed} ({error})") from error


def report_of(results: Mapping[str, Any], field: str, path: Path) -> Mapping[str, Any]:
    """The report in the results of a study of trainings.

    Raises:
      InputError: naming the field, if they have none.
    """
    report = results.get("report")
    ok = isinstance(report, Mapping) and "histories" in report
    require(ok, field, str(path), "results of a study of trainings, with a report")
    return results["report"]


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had no `length` in its histories, and a format in its report."""
    out = {**data, "format": FORMAT}
    if isinstance(data.get("report"), Mapping) and "histories" in data["report"]:
        report = {name: value for name, value in data["report"].items() if name != "format"}
        histories = {
            history: {**entry, "length": from_dict(TrainConfig, entry["config"]).task_of.length}
            for history, entry in report["histories"].items()
        }
        out["report"] = {**report, "histories": histories}
    return out

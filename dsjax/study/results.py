"""`results.json` of a study (docs/files.md): format 2 is written from the files of its jobs, 1 and 2 are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsjax.config import from_dict
from dsjax.errors import require
from dsjax.io import interpreted, read_json
from dsjax.own import call, import_function
from dsjax.study.jobs import Definition, Study, merge, plain
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
        found = call("report of the study", definition.report, function, merged, study.path, definition)
        results["report"] = _checked(definition.report, found)
    return results


def _checked(name: str, found: Any) -> dict[str, Any]:
    """What a report returned, as plain data.

    Raises:
      InputError: if it is no object of finite numbers, or has tables of another form.
    """
    what = f"what report {name} returns"
    require(isinstance(found, Mapping), what, found, "a dictionary")
    data = plain(what, dict(found))
    tables, form = data.get("tables", []), 'a list of {"title", "columns", "rows"}, texts alone'
    require(isinstance(tables, list), f"tables of {what}", tables, form)
    for table in tables:
        named = isinstance(table, dict) and isinstance(table.get("title"), str)
        rows: list[Any] = [None]
        if named and isinstance(table.get("rows"), list):
            rows = [table.get("columns"), *table["rows"]]
        texts = all(isinstance(row, list) and all(isinstance(cell, str) for cell in row) for row in rows)
        require(texts and len({len(row) for row in rows}) == 1, f"tables of {what}", table, form)
    return data


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
    known = isinstance(found, int) and found in (1, FORMAT) and "jobs" in data
    require(known, field, str(path), allowed)
    with interpreted(field, path, allowed):
        return file, _from_1(data) if found == 1 else data


def stored_below(path: Path) -> dict[str, Path]:
    """{name: folder} of the stored results in the folders of one that has none itself; a name is the way to it."""
    if not path.is_dir() or any((path / name).exists() for name in (NAME, PACKED)):
        return {}
    found = {file.parent for name in (NAME, PACKED) for file in path.rglob(name)}
    return {"-".join(folder.relative_to(path).parts): folder for folder in sorted(found) if "jobs" not in folder.parts}


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

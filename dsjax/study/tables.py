"""The report of the study as tables of text, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dsjax.statistics import Estimate

COLUMNS = ("p", "a", "b", "auroc", "auroc_on_base", "accuracy", "rounds")

Table = dict[str, Any]  # {"title", "columns": [text], "rows": [[text]]}


def by_student(e: Estimate) -> str:
    """Student's interval over seeds alone; `-` for one seed."""
    return f"[{e.t_low:+.3f}, {e.t_high:+.3f}]" if math.isfinite(e.t_low) else "-"


def with_student(e: Estimate) -> str:
    """An estimate with Student's interval; `-` where it does not exist."""
    return f"{e.value:+.3f} {by_student(e)}" if e else "-"


def p_value(p: float | None) -> str:
    """Two digits; `-` where there is none."""
    return "-" if p is None else f"{p:.2g}"


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The hypotheses, then the models of each history and split."""
    out = [_hypotheses(report["hypotheses"])] if report["hypotheses"] else []
    for history, entry in report["histories"].items():
        for split, found in entry["splits"].items():
            rows = [[m, *(_cell(c, Estimate.from_json(of[c])) for c in COLUMNS)] for m, of in found["measures"].items()]
            title = f"history {history}, {entry['split_names'].get(split, split)}; {len(entry['seeds'])} trainings"
            out.append({"title": title, "columns": ["", *COLUMNS], "rows": rows})
    return out


def _cell(measure: str, e: Estimate) -> str:
    return f"{e if measure == 'accuracy' else Estimate(e.value):.3f}"


def _hypotheses(hypotheses: list[Mapping[str, Any]]) -> Table:
    found = [(h, Estimate.from_json(h["estimate"])) for h in hypotheses]
    rows = [[h["id"], h["text"], f"{e:+.3f}", by_student(e), p_value(h["p_holm"]), h["verdict"]] for h, e in found]
    columns = ["", "hypothesis", "estimate [bootstrap]", "Student", "p (Holm)", "verdict"]
    return {"title": "Hypotheses, written down before the runs", "columns": columns, "rows": rows}

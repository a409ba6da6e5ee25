"""The report of the study as tables of text, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("p", "a", "b", "auroc", "auroc_on_base", "accuracy", "rounds")
SIGNED = "{value:+.3f} [{low:+.3f}, {high:+.3f}]"
PLAIN = "{value:.3f}"
WITH_INTERVAL = "{value:.3f} [{low:.3f}, {high:.3f}]"

Table = dict[str, Any]  # {"title", "columns": [text], "rows": [[text]]}


def spelled(estimate: Mapping[str, Any], form: str = SIGNED) -> str:
    """An estimate with its bootstrap interval; `-` where it does not exist."""
    return "-" if any(estimate[k] is None for k in ("value", "low", "high")) else form.format(**estimate)


def by_student(estimate: Mapping[str, Any]) -> str:
    """Student's interval over trainings alone; `-` for one training."""
    return "-" if estimate["t_low"] is None else "[{t_low:+.3f}, {t_high:+.3f}]".format(**estimate)


def with_student(estimate: Mapping[str, Any]) -> str:
    """An estimate with Student's interval; `-` where it does not exist."""
    return "-" if estimate["value"] is None else f"{estimate['value']:+.3f} {by_student(estimate)}"


def p_value(p: float | None) -> str:
    """Two digits; `-` where there is none."""
    return "-" if p is None else f"{p:.2g}"


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The hypotheses, then the models of each history and split."""
    out = [_hypotheses(report["hypotheses"])] if report["hypotheses"] else []
    for history, entry in report["histories"].items():
        for split, found in entry["splits"].items():
            rows = [
                [m, *(spelled(of[c], WITH_INTERVAL if c == "accuracy" else PLAIN) for c in COLUMNS)]
                for m, of in found["measures"].items()
            ]
            title = f"history {history}, {entry['split_names'].get(split, split)}; {len(entry['seeds'])} trainings"
            out.append({"title": title, "columns": ["", *COLUMNS], "rows": rows})
    return out


def _hypotheses(hypotheses: list[Mapping[str, Any]]) -> Table:
    rows = [
        [
            h["id"],
            h["text"],
            spelled(h["estimate"]),
            by_student(h["estimate"]),
            p_value(h["p_holm"]),
            h["verdict"],
        ]
        for h in hypotheses
    ]
    columns = ["", "hypothesis", "estimate [bootstrap]", "Student", "p (Holm)", "verdict"]
    return {"title": "Hypotheses, written down before the runs", "columns": columns, "rows": rows}

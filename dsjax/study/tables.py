"""The report of the study as tables of text, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dsjax.statistics import Estimate

TERMS = ("sampler", "mix", "decider")
DECIDING = {"regret": "regret of imitation", "headroom": "headroom of judgement"}
COLUMNS = ("p", "a", "b", "auroc", "auroc_on_base", "accuracy", "rounds")

Table = dict[str, Any]  # {"title", "columns": [text], "rows": [[text]]}
DIGITS = 6


def rounded(data: Any) -> Any:
    """As plain data with `DIGITS` significant digits: more would be rounding, and make the file twice as long."""
    if isinstance(data, Estimate):
        data = data.to_json()
    if isinstance(data, float):
        return float(f"{data:.{DIGITS}g}")
    if isinstance(data, Mapping):
        return {name: rounded(value) for name, value in data.items()}
    return [rounded(value) for value in data] if isinstance(data, list | tuple) else data


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
    """The hypotheses, then of each history and split: the models, what each component brings, what is left to gain."""
    out = [_hypotheses(report)] if report["hypotheses"] else []
    for history, entry in report["histories"].items():
        for split, found in entry["splits"].items():
            rows = [[m, *(_cell(c, Estimate.from_json(of[c])) for c in COLUMNS)] for m, of in found["measures"].items()]
            where = f"history {history}, {entry['split_names'].get(split, split)}"
            title = f"{where}; {len(entry['seeds'])} trainings"
            out.append({"title": title, "columns": ["", *COLUMNS], "rows": rows})
            out += [_terms(where, found["accounting"]), _deciding(where, found["measures"])]
    return out


def _terms(where: str, accounting: Mapping[str, Any]) -> Table:
    rows = [
        [pair, *(f"{Estimate.from_json(of['three_terms'][t]):+.2f}" for t in TERMS)] for pair, of in accounting.items()
    ]
    title = f"{where}: what each brings to the log-odds after many rounds, in nats"
    return {"title": title, "columns": ["", *TERMS], "rows": rows}


def _deciding(where: str, measures: Mapping[str, Any]) -> Table:
    rows = [[m, *(f"{Estimate.from_json(of[k]):.3f}" for k in DECIDING)] for m, of in measures.items()]
    title = f"{where}: accuracy that deciding better could earn"
    return {"title": title, "columns": ["", *DECIDING.values()], "rows": rows}


def _cell(measure: str, e: Estimate) -> str:
    return f"{e if measure == 'accuracy' else Estimate(e.value):.3f}"


def _hypotheses(report: Mapping[str, Any]) -> Table:
    rows = []
    for h in report["hypotheses"]:
        e, seeds = Estimate.from_json(h["estimate"]), len(report["histories"][h["history"]]["seeds"])
        some = f" ({len(e.seeds)} of {seeds} seeds)" if e and len(e.seeds) < seeds else ""  # at equal accuracy
        rows.append([h["id"], h["text"], f"{e:+.3f}{some}", by_student(e), p_value(h["p_holm"]), h["verdict"]])
    columns = ["", "hypothesis", "estimate [bootstrap]", "Student", "p (Holm)", "verdict"]
    return {"title": "Hypotheses, written down before the runs", "columns": columns, "rows": rows}

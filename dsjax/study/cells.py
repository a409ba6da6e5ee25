"""The comparisons that a study is about: gap in accuracy, what carries it, at equal accuracy inside, as predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dsjax.statistics import DIFFERENCE, PROBABILITY, Estimate
from dsjax.study.frontier import Curves, at_equal, where_defined
from dsjax.study.measures import TERMS, Measures
from dsjax.study.power import smallest_effect
from dsjax.study.settings import CANNOT_TELL, Cell
from dsjax.study.tables import Table, with_student

NOT_TOLD = "none told apart"


def verdict_of(gap: Estimate, smallest: Estimate) -> str:
    """By Student's interval over seeds; without one, or with 0 in it, it says what could have been seen."""
    if math.isfinite(gap.t_low) and gap.t_low > 0:
        return "reward is better"
    if math.isfinite(gap.t_high) and gap.t_high < 0:
        return "imitation is better"
    return CANNOT_TELL + (f" (could have seen {smallest.value:.3f})" if smallest else "")


def carrier(terms: Mapping[str, Estimate]) -> str:
    """The term of the log-odds that is largest among those whose Student's interval excludes 0."""
    told = {k: e for k, e in terms.items() if math.isfinite(e.t_low) and (e.t_low > 0 or e.t_high < 0)}
    return max(told, key=lambda k: abs(told[k].value)) if told else NOT_TOLD


def cells_of(
    measures: Mapping[str, Measures],
    frontier: Mapping[str, Curves],
    cells: Sequence[Cell],
    predicted: Mapping[str, Any],
    power: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """A row for each cell and split; of a cell that was not run what was known before.

    Args:
      measures: by split.
      frontier: by arm.
      cells: of the study.
      predicted: of the history, by split; nothing without predictions.
      power: by cell and split, as settings have it.
    """
    rows = []
    for split, of in measures.items():
        for cell in cells:
            row: dict[str, Any] = {"id": cell.id, "arm": cell.arm, "against": cell.against, "split": split}
            row |= {"predicted": predicted.get(split, {}), "power": power.get(cell.id, {}).get(split)}
            row["ceiling"] = cell.ceiling
            if not {cell.arm, cell.against} <= {*of.models}:
                known = row["power"] or {}
                before = Estimate.from_json(known.get("smallest"))
                told = known.get("verdict") == CANNOT_TELL  # else the preset leaves the arms out for other reasons
                why = f": {verdict_of(Estimate(math.nan), before)}" if told else ""
                rows.append({**row, "verdict": f"not run{why}"})
                continue
            gap = of.part("accuracy", "total", cell.arm, cell.against).estimate()
            smallest = smallest_effect(gap.seeds, len(gap.seeds))
            terms = {t: of.part("three_terms", t, cell.arm, cell.against).estimate() for t in (*TERMS, "total")}
            row |= {"gap": gap, "smallest": smallest, "terms": terms}
            row["carrier"] = carrier({t: terms[t] for t in TERMS})
            if {cell.arm, cell.against} <= {*frontier}:
                gaps, levels = at_equal(frontier[cell.arm], frontier[cell.against], split)
                equal = {"gap": (gaps, DIFFERENCE), "level": (levels, PROBABILITY)}
                row["equal"] = {k: where_defined(v, within).estimate() for k, (v, within) in equal.items()}
            rows.append({**row, "verdict": verdict_of(gap, smallest)})
    return rows


def equal_text(cell: Mapping[str, Any]) -> str:
    """The gap at equal accuracy of a cell, and of how many of its seeds it is, where not of all."""
    equal, gap = (Estimate.from_json(found) for found in ((cell.get("equal") or {}).get("gap"), cell.get("gap")))
    text = with_student(equal)
    return f"{text} ({len(equal.seeds)} of {len(gap.seeds)})" if equal and len(equal.seeds) < len(gap.seeds) else text


def tables(history: str, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The cells for people."""
    if not rows:
        return []

    out = [
        [
            row["id"],
            row["split"],
            with_student(Estimate.from_json(row.get("gap"))),
            equal_text(row),
            f"{Estimate.from_json(row['predicted'].get(row['ceiling'])):.3f}",
            row.get("carrier", "-"),
            row["verdict"],
        ]
        for row in rows
    ]
    title = f"history {history}: gap in accuracy, reward less imitation [Student]"
    columns = ["cell", "split", "gap", "at equal accuracy inside", "predicted at most", "carried by", "verdict"]
    return [{"title": title, "columns": columns, "rows": out}]

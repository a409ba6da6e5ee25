"""What seeds say about predeclared hypotheses: Student's t tests, corrected by Holm over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsjax.statistics import Estimate, holm, t_test

LEVEL = 0.05
DIRECTIONS = {"positive": 1, "negative": -1}
EXPECTED = (*DIRECTIONS, "equivalent")


def tested(hypothesis: Mapping[str, Any], values: np.ndarray) -> float | None:
    """p of a hypothesis from one value a seed; None where it does not exist.

    Two-sided for a mean of 0; for `equivalent` the larger of the two one-sided tests that it is beyond +- `margin`.
    """
    if hypothesis["expect"] == "equivalent":
        p = max(_beyond(values, sign * hypothesis["margin"], sign) for sign in (1, -1))
    else:
        p = t_test(values)[2]
    return p if np.isfinite(p) else None


def _beyond(values: np.ndarray, margin: float, sign: int) -> float:
    """One-sided p of the mean lying beyond the margin, above it for sign 1 and below it for -1."""
    p = t_test(values - margin)[2]
    return p / 2 if sign * (values.mean() - margin) < 0 else 1 - p / 2


def decide(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows {"expect", "margin", "estimate": Estimate, "p"} with "p_holm" and "verdict".

    Holm's correction is over all of them, or where they have a "family" over each family.

    A hypothesis that expects `positive` or `negative` is supported if Holm's p is at most 5 % and the sign is that one,
    contradicted if the sign is the other one, else open. One that expects `equivalent` is supported if Holm's p is at
    most 5 %, contradicted if Student's 95 % interval lies outside of the margin, else open.
    """
    corrected: dict[int, float] = {}
    for family in dict.fromkeys(row.get("family") for row in rows):
        of = [i for i, row in enumerate(rows) if row.get("family") == family]
        values = [float("nan") if rows[i]["p"] is None else rows[i]["p"] for i in of]
        corrected |= dict(zip(of, holm(values), strict=True))
    out = [{**row, "p_holm": corrected[i] if np.isfinite(corrected[i]) else None} for i, row in enumerate(rows)]
    return [{**row, "verdict": _verdict(row)} for row in out]


def _verdict(row: Mapping[str, Any]) -> str:
    estimate: Estimate = row["estimate"]
    p, expect = row["p_holm"], row["expect"]
    if not estimate or p is None:
        return "not defined"
    if expect == "equivalent":
        apart = estimate.t_low > row["margin"] or estimate.t_high < -row["margin"]
        return "supported" if p <= LEVEL else "contradicted" if apart else "open"
    if p > LEVEL:
        return "open"
    return "supported" if estimate.value * DIRECTIONS[expect] > 0 else "contradicted"

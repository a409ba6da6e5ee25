"""The atlas for people and programs: a table, a paragraph about one objective, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dsjax.atlas.rows import COLUMNS, ROUNDING, Row, bias, slope

VERSION = 1
CONVENTIONS = ("factor", "token", "block", "energy", "euclidean")


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Format version 1, strict JSON; None stands for what is not defined.

        {"version": 1, "lengths": [L, ..], "objectives": [
            {"name", "objective", "options", "data": "own" | "demonstrations",
             "shares": {L: share}, "euclidean_shares", "block_shares", "factor_ratio", "token_ratio",
             "slope": {"value", "error", "tail"}, "sign_errors": {verifier: {"states", "wrong", "zero"} | None},
             "snr": {component: {L: signal/moment}}, "bias": {"scale", "relative", "relative_at_shortest", "unbiased"},
             "verdicts": {convention: "balanced" | "unbalanced" | "undefined"},
             "classes": {"coefficients": "always" | "on-policy" | "never",
                         "filler": "none" | "tilted" | "per token" | "per attempt" | "coupled" | "undefined"},
             "enumeration_gap"}]}

    The classes are in words in `dsjax.atlas.classes`.
    """
    return {"version": VERSION, "lengths": list(rows[0].lengths), "objectives": [row.to_json() for row in rows]}


def to_csv(rows: Sequence[Row]) -> str:
    """One line an objective and length."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["objective", "length", *COLUMNS])
    for row in rows:
        columns = [row.column(name) for name in COLUMNS]
        for length in row.lengths:
            cells = [column[length] for column in columns]
            writer.writerow([row.name, length, *("" if x is None else repr(x) for x in cells)])
    return out.getvalue()


def _cell(x: float | None, form: str = ".2g") -> str:
    return "-" if x is None else format(x, form)


def _signs(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    return f"{counts['wrong']}/{counts['states']}" + (f", {counts['zero']}x0" if counts["zero"] else "")


def _bias(row: Row) -> str:
    if all(share is None for share in row.shares.values()):
        return "-"
    if row.unbiased:
        return "none"
    relative = bias(row.measured[-1])["relative"]
    return "all" if relative is None else f"{relative:.2g}"


# The classes of T20, short enough for a table of 80 columns.
_COEFFICIENTS = {"always": "even", "on-policy": "on-policy", "never": "uneven"}
_FILLER = {
    "none": "even",
    "tilted": "tilted",
    "per token": "1/L",
    "per attempt": "price",
    "coupled": "coupled",
    "undefined": "-",
}


def table(rows: Sequence[Row]) -> Table:
    """Shares at three lengths, slope, signs, bias and both classes of T20."""
    lengths = rows[0].lengths
    shown = sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]})
    out = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Decision share of energy of the exact expected gradient")
    out.add_column("objective", no_wrap=True)
    for length in shown:
        out.add_column(f"L={length}", justify="right")
    for name in ("slope", "wrong\nsigns", "bias", "token", "energy"):
        out.add_column(name, justify="right")
    for row in rows:
        out.add_row(
            row.name,
            *(_cell(row.shares[length]) for length in shown),
            _cell(slope(row.shares)["tail"], "+.2f"),
            _signs(row.signs["binary"]),
            _bias(row),
            _COEFFICIENTS[row.classes.coefficients],
            _FILLER[row.classes.filler],
        )
    return out


LEGEND = (
    "slope: of log share against log L at the longest answers. wrong signs: states at which the STOP logit is pushed"
    " the wrong way (binary verifier; 3x0: at three of them not at all). bias: length of the part of the gradient"
    " across grad J over that along it, at the longest answers. Two conventions, two classes (docs/theory.md, T20)."
    " token: whether all tokens of a trajectory have one coefficient; always (even), while the policy is the one that"
    " drew them (on-policy), or never (uneven). energy: what unread tokens do to the decision share; nothing (even),"
    " re-weighting by length (tilted), dilution (1/L), a price on each attempt (price), or something that depends on"
    " how many there are (coupled)."
)


def reading(row: Row, length: int) -> str:
    """One paragraph about an objective at the user's answer length, in plain words."""
    share = row.shares[length]
    if share is None:
        return f"{row.name}: at L = {length} its expected gradient is zero or undefined, so there is nothing to share."
    first = f"{row.name}: with answers of {length} tokens the decision gets {share:.2%} of the gradient's energy"
    shortest = row.lengths[0]
    if row.shares[shortest] is not None and length != shortest:
        first += f" ({row.shares[shortest]:.2%} at L = {shortest})"
    tail = slope(row.shares)["tail"]
    if tail is None:
        trend = ""
    elif tail <= -0.5:
        trend = f" The share falls about as L^{tail:.2f}: longer answers starve the decision."
    elif tail >= 0.1:
        trend = f" The share grows with long answers (about as L^{tail:.2f})."
    else:
        trend = " The share does not vanish as answers get longer."
    if row.classes.filler == "per token" and tail is not None and tail > -0.5:
        trend += " That is so here alone: where filler's law is another, every filler token takes a part."
    tokens = {
        "always": " Per token it treats decision and answer alike",
        "on-policy": " Per token it treats decision and answer alike as long as the policy is the one that drew them",
        "never": " Its coefficients differ from token to token",
    }[row.classes.coefficients]
    signs = row.signs["binary"]
    wrong = "" if signs is None else f"; it pushes STOP the wrong way at {signs['wrong']} of {signs['states']} states"
    if signs is not None and signs["zero"]:
        wrong += f" and not at all at {signs['zero']}"
    if row.unbiased:
        biased = "Its expected gradient is along that of the expected return."
    else:
        relative = bias(row.measured[-1])["relative"]
        biased = (
            "Its expected gradient has no part along that of the expected return."
            if relative is None
            else "Its expected gradient is not along that of the expected return: the part that points elsewhere is"
            f" {relative:.2g} times as long as the part along it."
        )
    exact = (
        ""
        if row.gap <= ROUNDING
        else f" Note: at short answers these numbers differ from enumeration by {row.gap:.1e} of the largest gradient"
        " entry, because the objective couples single tokens in a way that the long-answer law does not resolve."
    )
    return f"{first}.{trend}{tokens}{wrong}. {biased}{exact}"

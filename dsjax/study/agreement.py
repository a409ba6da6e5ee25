"""Whether two runs of a study say the same: how many of their intervals overlap, and which do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dsjax.errors import require
from dsjax.statistics import Estimate, Resampled
from dsjax.study.hypotheses import decide, tested
from dsjax.study.tables import Table, p_value, with_student
from dsjax.training.config import BASE

INTERVALS = {"bootstrap": ("low", "high"), "Student": ("t_low", "t_high")}
MOST_SHOWN = 20

Path = tuple[str, ...]


def estimates_in(data: Any, path: Path = ()) -> Iterator[tuple[Path, Estimate]]:
    """Every estimate of stored results, with the names that lead to it."""
    if isinstance(data, Mapping) and {"value", "low", "high"} <= data.keys():
        yield path, Estimate.from_json(data)
    elif isinstance(data, Mapping | list):
        for name, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from estimates_in(value, (*path, str(name)))


def estimates(report: Mapping[str, Any]) -> dict[Path, Estimate]:
    """Every estimate with an interval, by (history, split, kind, names..); split and kind are equal for gradients."""
    found: dict[Path, Estimate] = {}
    for history, entry in report["histories"].items():
        found |= estimates_in(entry["gradients"], (history, "gradients", "gradients"))
        for split, data in entry["splits"].items():
            found |= estimates_in(data, (history, split))
    return found


def overlap(one: Estimate, other: Estimate, interval: str) -> bool | None:
    """Whether two intervals of a kind have a point in common; None where one of them does not exist."""
    ends = np.array([[getattr(e, name) for e in (one, other)] for name in INTERVALS[interval]])
    return bool(ends[0].max() <= ends[1].min()) if np.isfinite(ends).all() else None


def agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How many intervals of two reports overlap, and which do not.

    Two independent 95 % intervals of the same number are apart in about 6 of 1000 cases, if both are what they claim to
    be; estimates of one history share their seeds, so cases come in clusters.

    Returns:
      What both reports hold: {"seeds": {history: [[..], [..]]}, "groups": [{"history", "split", "kind", "bootstrap":
      [overlapping, compared], "Student": [overlapping, compared]}], "apart": [{"history", "split", "kind", "name",
      "interval", "one", "other"}], "comparisons": [{"history", "split", "kind", "name", "one", "other"}] of arms with
      each other, "hypotheses": [{"id", "text", "one", "other", "both"}] with estimate, Holm's p and verdict}; `both`
      takes the seeds of both runs for one sample, which is no longer what was declared before either.

    Raises:
      InputError: if they have seeds or no estimate in common.
    """
    first, second = estimates(one), estimates(other)
    common = [key for key in first if key in second]
    require(bool(common), "results", "two studies without a common estimate", "two runs of one study")
    seeds: dict[str, Any] = {}
    for history in dict.fromkeys(key[0] for key in common):
        pair = [report["histories"][history]["seeds"] for report in (one, other)]
        allowed = "other seeds than the first results': the same trainings agree with themselves"
        require(not {*pair[0]} & {*pair[1]}, "results", f"seeds {pair[1]}, history {history}", allowed)
        seeds[history] = pair

    def both(key: Path) -> dict[str, Any]:
        return {"one": first[key].to_json(), "other": second[key].to_json()}

    groups: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    apart = []
    for key in common:
        history, split, kind = key[:3]
        group = groups.setdefault((history, split, kind), {interval: [0, 0] for interval in INTERVALS})
        for interval in INTERVALS:
            found = overlap(first[key], second[key], interval)
            if found is None:
                continue
            group[interval][0] += found
            group[interval][1] += 1
            if not found:
                apart.append({**_named(key), "interval": interval, **both(key)})
    return {
        "seeds": seeds,
        "groups": [{"history": h, "split": s, "kind": k, **counts} for (h, s, k), counts in groups.items()],
        "apart": apart,
        "comparisons": [
            {**_named(key), **both(key)}
            for key in common
            if key[2] == "accounting" and not key[3].endswith(f" - {BASE}")
        ],
        "hypotheses": _hypotheses(one, other),
    }


def _named(key: Path) -> dict[str, str]:
    history, split, kind, *names = key
    return {"history": history, "split": split, "kind": kind, "name": ", ".join(names)}


def _hypotheses(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    second = {h["id"]: h for h in other["hypotheses"]}
    pairs = [(h, second[h["id"]]) for h in one["hypotheses"] if h["id"] in second]
    rows = []
    for pair in pairs:
        found = Resampled.of_seeds([v for h in pair for v in h["estimate"]["seeds"]], resamples=0)  # None is NaN
        row = {name: pair[0].get(name) for name in ("expect", "margin")}
        rows.append({**row, "estimate": found.estimate(), "p": tested(pair[0], found.values)})

    def short(h: Mapping[str, Any], estimate: Any) -> dict[str, Any]:
        return {"estimate": estimate, "p_holm": h["p_holm"], "verdict": h["verdict"]}

    out = []
    for (a, b), both in zip(pairs, decide(rows), strict=True):
        numbers = both["estimate"].to_json()
        of_seeds = {name: numbers[name] for name in ("value", "t_low", "t_high", "p")}
        three = {"one": short(a, a["estimate"]), "other": short(b, b["estimate"]), "both": short(both, of_seeds)}
        out.append({"id": a["id"], "text": a["text"], **three})
    return out


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Counts, and what is apart."""

    def part(counts: list[int]) -> str:
        return f"{counts[0]} of {counts[1]}" if counts[1] else "-"

    seeds = "; ".join(f"{h}: {_run(a)} and {_run(b)}" for h, (a, b) in found["seeds"].items())
    rows = [[g["history"], g["split"], g["kind"], *(part(g[i]) for i in INTERVALS)] for g in found["groups"]]
    totals = [[sum(g[i][n] for g in found["groups"]) for n in (0, 1)] for i in INTERVALS]
    rows.append(["all", "", "", *map(part, totals)])
    columns = ["history", "split", "estimates", *(f"overlap ({i})" for i in INTERVALS)]
    out = [{"title": f"Intervals of two runs that overlap; seeds {seeds}", "columns": columns, "rows": rows}]
    if found["hypotheses"]:
        rows = [
            [
                h["id"],
                *(f"{Estimate.from_json(h[k]['estimate']):+.3f}" for k in ("one", "other")),
                h["one"]["verdict"],
                h["other"]["verdict"],
                *_both(h),
            ]
            for h in found["hypotheses"]
        ]
        columns = ["", "one", "other", "verdict of one", "of the other"]
        if len(rows[0]) > len(columns):
            columns += ["both [Student]", "p (Holm)", "verdict of both"]
        out.append({"title": "Hypotheses", "columns": columns, "rows": rows})
    if found["apart"]:
        written = {"bootstrap": "{:+.3f}".format, "Student": with_student}
        rows = []
        for a in found["apart"][:MOST_SHOWN]:
            cells = (written[a["interval"]](Estimate.from_json(a[k])) for k in ("one", "other"))
            rows.append([a["history"], a["split"], a["kind"], a["name"], *cells])
        title = f"Apart: {len(rows)} of {len(found['apart'])}"
        out.append({"title": title, "columns": ["history", "split", "estimates", "of", "one", "other"], "rows": rows})
    return out


def _both(hypothesis: Mapping[str, Any]) -> list[str]:
    """Of all seeds; nothing for files that were written before there was such a column."""
    if "both" not in hypothesis:
        return []
    both = hypothesis["both"]
    return [with_student(Estimate.from_json(both["estimate"])), p_value(both["p_holm"]), both["verdict"]]


def _run(seeds: list[int]) -> str:
    return f"{seeds[0]}..{seeds[-1]}"

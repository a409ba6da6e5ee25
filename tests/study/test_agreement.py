"""Which intervals of two runs overlap."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from dsjax.cli.study import compare
from dsjax.errors import InputError
from dsjax.statistics import Estimate
from dsjax.study.agreement import agreement, estimates, overlap, tables
from tests.cli.plain import assert_plain


def estimate(value: float, half: float = 1.0, student: float | None = 2.0) -> dict[str, Any]:
    """As it is stored; without Student's interval for a single run."""
    short = Estimate(value, value - half, value + half)
    many = replace(short, t_low=value - (student or 0), t_high=value + (student or 0), seeds=(value,))
    return (short if student is None else many).to_json()


def report(seeds, shift=0.0):
    split = {
        "measures": {"rloo": {"p": estimate(0.5 + shift), "a": {"value": 1.0, "low": None, "high": None}}},
        "swap": {"rloo": {"base": estimate(0.4 + shift, student=None)}},
        "accounting": {
            f"rloo - {against}": {"log_odds": {"total": estimate(0.2 + shift)}} for against in ("base", "sft-self")
        },
        "roc": {"rloo": [[0.0, 1.0], [0.0, 1.0]]},
    }
    gradients = {"rloo": {"share": estimate(0.1)}}
    decided = {"p": 0.5, "p_holm": 0.5, "verdict": "open"}
    hypothesis = {"id": "H1", "text": "Higher.", "expect": "positive", "estimate": estimate(0.1 + shift), **decided}
    return {
        "hypotheses": [hypothesis],
        "histories": {"none": {"seeds": seeds, "gradients": gradients, "splits": {"in": split}}},
    }


def counts(found):
    return {g["kind"]: (g["bootstrap"], g["Student"]) for g in found["groups"]}


def test_every_estimate_has_its_name():
    assert list(estimates(report([0]))) == [
        ("none", "gradients", "gradients", "rloo", "share"),
        ("none", "in", "measures", "rloo", "p"),
        ("none", "in", "measures", "rloo", "a"),
        ("none", "in", "swap", "rloo", "base"),
        ("none", "in", "accounting", "rloo - base", "log_odds", "total"),
        ("none", "in", "accounting", "rloo - sft-self", "log_odds", "total"),
    ]


@pytest.mark.parametrize(("shift", "expected"), [(2.0, True), (2.0 + 1e-9, False), (-3.0, False), (0.0, True)])
def test_intervals_overlap_where_they_have_a_point_in_common(shift, expected):
    one = Estimate(0.0, -1.0, 1.0, -2.0, 2.0)
    for half in (1.0, 0.5):
        middle = shift / 2 * (1 + half)
        assert overlap(one, Estimate(middle, middle - half, middle + half), "bootstrap") is expected
    assert overlap(one, one, "Student") is True
    assert overlap(one, replace(one, t_low=math.nan, t_high=math.nan), "Student") is None


def test_what_is_apart_is_counted_and_named():
    near, far = (agreement(report([0, 1]), report([2, 3], shift)) for shift in (1.0, 3.0))
    everywhere = {"gradients": ([1, 1], [1, 1]), "measures": ([1, 1], [1, 1]), "swap": ([1, 1], [0, 0])}
    assert counts(near) == {**everywhere, "accounting": ([2, 2], [2, 2])}
    assert near["apart"] == []
    assert near["seeds"] == {"none": [[0, 1], [2, 3]]}
    nowhere = {"measures": ([0, 1], [1, 1]), "swap": ([0, 1], [0, 0]), "accounting": ([0, 2], [2, 2])}
    assert counts(far) == {**everywhere, **nowhere}
    assert [(a["kind"], a["name"], a["interval"]) for a in far["apart"]] == [
        ("measures", "rloo, p", "bootstrap"),
        ("swap", "rloo, base", "bootstrap"),
        ("accounting", "rloo - base, log_odds, total", "bootstrap"),
        ("accounting", "rloo - sft-self, log_odds, total", "bootstrap"),
    ]
    summary, hypotheses, apart = tables(far)
    assert summary["rows"][-1] == ["all", "", "", "1 of 5", "4 of 4"]
    both = ["+1.600 [-17.459, +20.659]", "0.48", "open"]  # Student's of 0.1 and 3.1: 12.706 * 1.5 each way
    assert hypotheses["rows"] == [["H1", "+0.100 [-0.900, +1.100]", "+3.100 [+2.100, +4.100]", "open", "open", *both]]
    assert apart["rows"][0][3:] == ["rloo, p", "+0.500 [-0.500, +1.500]", "+3.500 [+2.500, +4.500]"]
    assert len(tables(near)) == 2
    assert [c["name"] for c in near["comparisons"]] == ["rloo - sft-self, log_odds, total"]


def test_hypotheses_are_judged_on_the_seeds_of_both_runs():
    def run(seeds, *asked):
        rows = []
        for name, expect, values in asked:
            of = {"value": 0.0, "low": 0.0, "high": 0.0, "seeds": values}
            rows.append({"id": name, "text": "", "expect": expect, "margin": 0.1, "estimate": of})
        return {**report(seeds), "hypotheses": [{**row, "p": 1.0, "p_holm": 1.0, "verdict": "open"} for row in rows]}

    one = run([0, 1], ("up", "positive", [0.9, 1.1]), ("same", "equivalent", [0.01, -0.01]), ("no", "positive", [1, 1]))
    other = run(
        [2, 3], ("up", "positive", [1.0, 1.2]), ("same", "equivalent", [0.02, 0]), ("no", "positive", [1, None])
    )
    up, same, no = (h["both"] for h in agreement(one, other)["hypotheses"])
    assert up["estimate"]["value"] == pytest.approx(1.05)
    assert (up["verdict"], same["verdict"], no["verdict"]) == ("supported", "supported", "not defined")
    down = agreement(one, run([2, 3], ("up", "positive", [-3.0, 1.0])))["hypotheses"]
    assert [(h["id"], h["both"]["verdict"]) for h in down] == [("up", "open")]
    old = agreement(one, other)
    for h in old["hypotheses"]:
        del h["both"]  # as in files that are older than the column
    assert tables(old)[1]["columns"] == ["", "one", "other", "verdict of one", "of the other"]


def test_the_same_seeds_and_other_studies_are_no_second_run():
    with pytest.raises(InputError, match=r"seeds \[1, 2\], history none"):
        agreement(report([0, 1]), report([1, 2]))
    other = copy.deepcopy(report([5]))
    other["histories"]["full"] = other["histories"].pop("none")
    with pytest.raises(InputError, match="two runs of one study"):
        agreement(report([0]), other)


def test_the_command(tmp_path, capsys):
    for name, results in (("one", report([0])), ("other", report([1], 3.0)), ("run", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(
            json.dumps({"format": 2, "jobs": {}, **({"report": results} if results else {})})
        )
    out = tmp_path / "agreement.json"
    assert compare(tmp_path / "one", tmp_path / "other" / "results.json", json=out) == 0
    stored = json.loads(out.read_text())
    runs = [{"study": None, "preset": None, "provenance": None, "missing": None, "seconds": 0}] * 2
    assert stored == {"format": 1, "runs": runs, **agreement(report([0]), report([1], 3.0))}
    text = capsys.readouterr().out
    assert_plain(text)
    assert "1 of 5" in text
    with pytest.raises(InputError, match=r"json: .*another file than one that is read"):
        compare(tmp_path / "one", tmp_path / "other", json=tmp_path / "other" / "results.json")
    for name, words in (("run", "with a report"), ("nothing", "finished study")):
        with pytest.raises(InputError, match=f"other: .*{words}"):
            compare(tmp_path / "one", tmp_path / name)

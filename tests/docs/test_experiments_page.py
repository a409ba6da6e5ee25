"""Numbers in docs/experiments.md, and its figures, come from the stored runs; the pages of results are those."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsjax.evaluation import regret
from dsjax.statistics import Estimate
from dsjax.study.agreement import estimates_in, tables
from dsjax.study.results import read_results
from dsjax.study.tables import p_value, with_student
from dsjax.training.config import BASE
from experiments import pages

ROOT = Path(__file__).parents[2]
STORED = ROOT / "experiments" / "arithmetic" / "cpu"
AGAIN = STORED.with_name("cpu-again")
SETTLED = STORED.with_name("cpu-settled")
NOISE = ROOT / "experiments" / "noise"
SETTLED_AGAIN = STORED.with_name("cpu-settled-again")
PAGE = (ROOT / "docs" / "experiments.md").read_text()
NUMBER = r"[+-]?\d+\.\d{3}"
ESTIMATE = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")


@functools.cache
def stored(folder: Path) -> dict[str, Any]:
    """The report of a published run."""
    return read_results("run", folder)[1]["report"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return stored(STORED)


@pytest.fixture(scope="module")
def settled() -> dict[str, Any]:
    return stored(SETTLED)


@pytest.fixture(scope="module")
def rerun() -> dict[str, Any]:
    return json.loads((AGAIN / "agreement.json").read_text())


@pytest.fixture(scope="module")
def settled_rerun() -> dict[str, Any]:
    return json.loads((SETTLED_AGAIN / "agreement.json").read_text())


@pytest.fixture(scope="module")
def noise() -> dict[str, Any]:
    return {preset: stored(NOISE / preset) for preset in ("cpu", "cpu-large-steps")}


def prose(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def line(row: Iterable[str]) -> str:
    """A row of a table of the page."""
    return f"| {' | '.join(row)} |"


def test_every_estimate_is_a_stored_one(report, rerun, settled, settled_rerun, noise):
    found = [e for _, e in estimates_in([report, rerun, settled, settled_rerun, noise])]
    known = {format(e, form) for e in found for form in (".3f", "+.3f")}
    known |= {with_student(Estimate.from_json(h["both"]["estimate"])) for h in settled_rerun["hypotheses"]}
    stated = ESTIMATE.findall(PAGE)
    assert len(stated) > 20
    assert set(stated) <= known


def test_the_pages_of_results_are_those_of_the_stored_files():
    """All their tables, the six answers and the plan: `python -m experiments.pages` writes them again."""
    written = pages.pages()
    assert len(written) == 9 + len(pages.causes())
    for file, text in written.items():
        assert file.read_text() == text, file


def test_each_part_of_the_study_of_causes_takes_at_most_three_core_hours():
    page = (ROOT / "docs" / "results.md").read_text()
    hours = re.findall(r"^\| [a-z]+ \| cpu[\w-]* \| (?:4|16) \| \d+ \| ([\d.]+) \|", page, re.MULTILINE)
    assert len(hours) == 17
    assert max(map(float, hours)) <= 3.0


def test_the_six_answers_follow_from_the_cells():
    def estimate(value):
        return {"value": value, "t_low": value - 0.1, "t_high": value + 0.1}

    def cell(gap, verdict, against="sft-success", **more):
        terms = {t: {"value": 1.0, "t_low": 0.5, "t_high": 1.5} for t in ("sampler", "mix", "decider")}
        named = {"arm": "rloo", "against": against, "split": "out", "terms": terms, "carrier": "mix"}
        return {**named, "gap": estimate(gap), "smallest": {"value": 0.25}, "verdict": verdict, **more}

    # Reward's decider judges 0.2 worse than that of sft-value, give or take a little, and as well as the others'.
    aurocs = {"rloo": [0.7, 0.71], "sft-success": [0.7, 0.71], "sft-value": [0.9, 0.912], "sft-online-l": [0.7, 0.71]}
    judged = {"measures": {m: {"auroc_on_base": {"value": x[0], "seeds": x}} for m, x in aurocs.items()}}

    def said(*cells, gain=0.3, loss=-0.3, regime="r"):
        changes = {"rloo": gain, "sft-success": loss}
        accounting = {f"{arm} - base": {"accuracy": {"total": estimate(x)}} for arm, x in changes.items()}
        # As many different comparisons as are given.
        different = [c | {"gap": c["gap"] | {"p": i}} for i, c in enumerate(cells)]
        entry = {"cells": different, "splits": {s: {"accounting": accounting, **judged} for s in ("in", "out")}}
        return [a for _, a in pages.answers({regime: {"histories": {"none": entry}}})]

    assert [a for _, a in pages.answers({})].count(pages.NOT_RUN) == 5
    unsure = cell(0.05, "cannot tell (could have seen 0.250)")
    where, how, *_, like = said(unsure, cell(0.5, pages.REWARD, split="in"))
    assert where.startswith(
        "**Out of distribution reward is better than some in 0 of 1 places; imitation is better than some in 0 of 1"
        " places.** There, of 1 comparisons reward is better in 0, imitation is better in 0; 1"
    )
    assert "could have seen 0.250 to 0.250. In distribution, of 1 comparisons reward is better in 1 (largest:" in where
    assert how == "There is no gap to split."
    assert like == "By signs alone, no gap that can be told: r (out)."
    where, how, value, _, on_policy, like = said(unsure, *(cell(g, pages.REWARD, "sft-value") for g in (0.2, 0.5)))
    assert "reward is better in 2 (largest: rloo - sft-value (r, out) +0.500 [+0.400, +0.600])" in where
    assert how.startswith(
        "**Where reward is better: carried by mix 2.** Of the largest, rloo - sft-value (r, out), in nats: d"
    )
    assert (
        "of 3 comparisons each term favours reward and imitation in: decider 3 and 0, mix 3 and 0, sampler 3 and" in how
    )
    assert how.endswith("from wrong ones better (AUROC) in 0 and 2.")
    assert value.startswith(
        "**sft-value: no gap to close where it was run.** Reward less imitation of value labels: sft-value: of 2"
        " comparisons reward is better in 2"
    )
    assert on_policy == pages.NOT_RUN
    # An arm closes a gap if reward is not better and the interval ends below the gap: 0.2 +- 0.1 below 0.5, not 0.45.
    for left, verdict, word in ((0.4, pages.REWARD, "no"), (0.2, "cannot tell", "yes"), (0.45, "cannot tell", "canno")):
        (value,) = said(cell(0.5, pages.REWARD), cell(left, verdict, "sft-value"))[2:3]
        assert value.startswith(f"**sft-value: {word}")
        assert f"(r out: of +0.500 there is left {left:+.3f} [" in value
    # A comparison that another study has too, arms and all, counts once.
    found = {
        "out": {
            "accounting": {f"{arm} - base": {"accuracy": {"total": estimate(0.0)}} for arm in ("rloo", "sft-success")},
            **judged,
        }
    }
    both = {r: {"histories": {"none": {"cells": [unsure], "splits": found}}} for r in ("r", "null")}
    assert "There, of 1 comparisons" in pages.answers(both)[0][1]
    # A part with more arms is of the place of the part that it adds to.
    more = {"r-weight": {"histories": {"none": {"cells": [cell(0.4, pages.REWARD, "sft-online-l")], "splits": found}}}}
    gold = {"r": {"histories": {"none": {"cells": [cell(0.5, pages.REWARD)], "splits": found}}}}
    said_of = [a for _, a in pages.answers(gold | more)]
    assert "in 1 of 1 places (r out)" in said_of[0]
    assert said_of[3].startswith("**sft-online-l: no (r out: of +0.500 there is left +0.400 [")
    # Other step sizes show what depends on them, and answer nothing.
    assert said(cell(0.5, pages.REWARD), regime="r-triple")[0] == pages.NOT_RUN
    for gain, loss, pattern in ((0.3, -0.3, "generalises"), (0.3, 0.0, "keeps"), (0.0, -0.3, "keeps")):
        like = said(cell(0.5, pages.REWARD), gain=gain, loss=loss)[-1]
        assert like == f"By signs alone, {pages.PATTERNS[pattern]}: r (out)."
    assert "the reverse of the published gaps: r (out)" in said(cell(-0.5, pages.IMITATION))[-1]


def test_the_part_about_noise_is_of_those_runs(noise):
    part = PAGE.split("<!-- the study of noise -->")[1].split("<!-- end of the study of noise -->")[0]
    for row in noise["cpu"]["tables"][0]["rows"]:
        assert line(row) in part
    definition = json.loads((NOISE / "study.json").read_text())
    for found in noise.values():
        assert {h["id"]: h["text"] for h in found["hypotheses"]} == {
            h["id"]: h["text"] for h in definition["hypotheses"]
        }
    curves = noise["cpu"]["histories"]["none"]["curves"]
    plain, with_baseline = (curves[m]["gradient"][0] for m in ("reinforce-plain", "rloo"))
    assert plain["step"] == with_baseline["step"] == 0
    noises = [row["noise_decision"][0] for row in (plain, with_baseline)]
    assert "is {:.0f} without a baseline and {:.0f} with one".format(*noises) in prose(part)
    for h in noise["cpu-large-steps"]["hypotheses"]:
        assert f"| {Estimate.from_json(h['estimate']):+.3f} | {p_value(h['p_holm'])} | {h['verdict']} |\n" in part
    for verdict in ("supported", "open", "contradicted"):
        named = [h["id"] for h in noise["cpu-large-steps"]["hypotheses"] if h["verdict"] == verdict]
        assert f"{verdict.capitalize()}: {', '.join(named) or 'none'}." in prose(part)


def test_all_hypotheses_of_the_study_were_judged(report, settled):
    definition = json.loads((ROOT / "experiments" / "arithmetic" / "study.json").read_text())
    stated = {h["id"]: h["text"] for h in report["hypotheses"]}
    assert stated == {h["id"]: h["text"] for h in definition["hypotheses"]}
    assert {h["id"]: h["text"] for h in settled["hypotheses"]} == stated


def test_counts_of_the_settled_rerun_are_the_stored_ones(settled_rerun):
    totals = tables(settled_rerun)[0]["rows"][-1]
    assert f"in all {totals[3]} bootstrap intervals, and {totals[4]} of Student's" in prose(PAGE)


def test_the_second_run_of_the_settled_preset_is_whole_and_agrees(settled_rerun):
    """Of intervals that are what they claim, 6 of 1000 are apart; those of one history come in clusters: twice that."""
    assert [run["missing"] for run in settled_rerun["runs"]] == [[], []]
    overlapping, compared = (sum(group["bootstrap"][n] for group in settled_rerun["groups"]) for n in (0, 1))
    assert compared > 6000
    assert compared - overlapping <= 0.012 * compared


@pytest.mark.parametrize("folder", [STORED, SETTLED], ids=lambda path: path.name)
@pytest.mark.parametrize("history", ["none", "full"])
def test_figures_hold_the_stored_numbers(folder, history):
    report = stored(folder)
    splits = report["histories"][history]["splits"]
    with (folder / f"F5_components_{history}.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        estimate = splits[row["split"]]["measures"][row["model"]][row["measure"]]
        assert [row[k] for k in ("value", "low", "high")] == [
            "" if estimate[k] is None else str(estimate[k]) for k in ("value", "low", "high")
        ]
    assert len({row["model"] for row in rows}) == len(report["histories"][history]["models"])


def test_what_a_threshold_could_have_earned_in_the_settled_run_is_t16s_sum(settled):
    """q by bin is stored; V and the visits of each round follow where all problems are alike."""
    split = settled["histories"]["none"]["splits"]["in"]
    earned = []
    for model in ("sft-self", BASE):
        table = split["reliability"][model]
        count = np.array(table["count"], float)
        q, mass = np.array([x or 0.0 for x in table["right"]]), count / count.sum()
        values, alive, total = [mass @ q], 1.0, 0.0
        for _ in range(settled["histories"]["none"]["config"]["rounds"] - 2):
            values.insert(0, mass @ np.maximum(q, values[0]))
        for V in values:
            total += regret.from_table(q, np.full_like(q, V), alive * mass)
            alive *= mass @ (1 - q)
        earned.append(total)
    assert "gains {:.3f} and {:.3f} in accuracy over imitation".format(*earned) in prose(PAGE)
    found = split["accounting"]["rloo - sft-self"]["accuracy"]["decider"]
    assert 0 < found["value"] < min(earned)


def test_linked_files_exist():
    for name in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert (ROOT / name).exists(), name

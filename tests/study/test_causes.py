"""The study of causes: its presets, a smoke run from predictions to figures, power, and arms at equal accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dsjax.cli.study import power
from dsjax.errors import InputError
from dsjax.evaluation import accounting, transfer
from dsjax.io import read_json, write_json
from dsjax.statistics import DIFFERENCE, Estimate
from dsjax.study.cells import NOT_TOLD, carrier, cells_of, equal_text, verdict_of
from dsjax.study.engine import run_here
from dsjax.study.frontier import at_equal, where_defined
from dsjax.study.jobs import Definition, merge
from dsjax.study.power import smallest_effect
from dsjax.study.predict import predict, tables
from dsjax.study.report import report
from dsjax.study.results import collect
from dsjax.study.settings import CANNOT_TELL, RUN, Cell, Settings
from dsjax.study.trainings import jobs, predicted_hash
from tests.programs import same_gradient, with_parts

CAUSES = Path(__file__).parents[2] / "experiments" / "causes"
REGIMES = ("finite", "countdown", "null")
STUDIES = {name: Definition.read(CAUSES / name) for name in REGIMES}


@pytest.mark.parametrize("name", REGIMES)
def test_presets_hypotheses_and_cells_are_of_the_study(name):
    definition = STUDIES[name]
    families = [h["family"] for h in definition.hypotheses]
    assert 1 <= max(map(families.count, families)) <= 6
    known = {*definition.settings["arms"], *definition.settings.get("variants", {})}
    assert all({h["arm"], h["against"]} <= known for h in definition.hypotheses)
    for preset in definition.presets:
        asked = Settings.read(definition.settings_of(preset))
        splits = asked.config("base", "none", 0).task_of.splits
        assert len(splits) > 1
        trial = preset in ("smoke", "pilot")
        # Other step sizes show whether the answer depends on it; the comparisons that decide are of the first.
        assert trial or asked.seeds >= (4 if preset.endswith(("-third", "-triple")) else 16)
        if not trial:
            assert {h["split"] for h in definition.hypotheses} <= {*splits}
            assert any({c.arm, c.against} <= {*asked.arms} for c in asked.cells)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke preset: bases and predictions, one arm before them and the others after."""
    study = STUDIES["finite"].study("smoke", tmp_path_factory.mktemp("causes") / "study")
    with pytest.MonkeyPatch.context() as patch:
        # The slowest program to compile, which has tests of its own.
        with_parts(patch, make_gradient_measure=same_gradient)
        study.start()
        for name in ("none/seed-0/base", "none/seed-0/arms/rloo"):
            assert study.do(name) == "done", study.status()[0].message
        found = predict(study)
        run_here(study)
    assert [s.state for s in study.status()] == ["done"] * len(study.jobs), [s.message for s in study.status()]
    return study, found, collect(study, STUDIES["finite"])


def test_predictions_are_of_the_bases_alone_and_dated_by_their_hash(run):
    study, found, results = run
    assert found == read_json(study.path / "predictions.json")
    assert found["seen"] == ["none/seed-0/arms/rloo"]
    assert [*found["bases"]] == ["none/seed-0/base", "none/seed-1/base"]
    assert len({*found["bases"].values()}) == 2
    splits = found["histories"]["none"]["splits"]
    assert {*splits["longer"]} - {*splits["in"]} == {"e_r", "e_w", "fall", "bound"}
    told = results["report"]["predictions"]
    assert (told["older_than"], told["arms"]) == (3, 4)  # all but the arm that was there before
    assert told["sha256"] == predicted_hash(study.path / "predictions.json")
    assert any("written before 3 of 4 arms began" in t["title"] for t in results["report"]["tables"])
    assert tables(found)[0]["rows"][0][:2] == ["in", f"{Estimate.from_json(splits['in']['accuracy']):.3f}"]
    # A file that is changed after the arms is older than none of them.
    kept = (study.path / "predictions.json").read_bytes()
    write_json(study.path / "predictions.json", {**found, "bases": {}})
    assert report(merge(study), study.path, STUDIES["finite"])["predictions"]["older_than"] == 0
    (study.path / "predictions.json").write_bytes(kept)


def test_a_cell_sets_the_gap_beside_its_prediction(run):
    _, found, results = run
    entry = results["report"]["histories"]["none"]
    assert entry["models"] == ["base", "sft-success", "rloo", "sft-success-early"]
    assert {*entry["frontier"]} == {"sft-success", "rloo"}
    rows = {(row["id"], row["split"]): row for row in entry["cells"]}
    assert [*rows] == [(c, s) for s in ("in", "longer") for c in ("gold", "value", "early")]
    row = rows["gold", "longer"]
    assert row["predicted"] == found["histories"]["none"]["splits"]["longer"]
    assert row["gap"] == entry["splits"]["longer"]["accounting"]["rloo - sft-success"]["accuracy"]["total"]
    assert row["equal"]["gap"]["seeds"]
    assert rows["value", "longer"]["verdict"] == "not run"  # the preset has no such arm


def test_a_cell_that_was_not_run_says_what_could_have_been_seen_if_that_is_why():
    cell, of = Cell("gold", "rloo", "sft-success"), SimpleNamespace(models=["base"])
    known = {"smallest": {"value": 0.3}, "verdict": CANNOT_TELL}
    for plan, verdict in (({}, "not run"), ({"verdict": RUN}, "not run"), (known, "not run: cannot tell (could have")):
        (row,) = cells_of({"in": cast(Any, of)}, {}, [cell], {}, {"gold": {"in": plan}})
        assert row["verdict"].startswith(verdict)
        assert (len(row["verdict"]) > 8) == (plan is known)


def test_an_early_arm_is_the_best_checkpoint_of_its_training(run):
    study, _, _ = run
    for seed in (0, 1):
        best = read_json(study.folder(f"none/seed-{seed}/arms/sft-success") / "run" / "result.json")["best"]["step"]
        with np.load(study.folder(f"none/seed-{seed}/evaluation") / "in.npz") as arrays:
            base, last, _, early = arrays["own"]
        assert best < 4  # of these seeds; else the two arms would be the same
        assert (early == base).all() == (best == 0)
        assert (early != last).any()
    assert not study.folder("none/seed-0/arms/sft-success-early").exists()


def test_arms_are_compared_where_they_are_equally_good_inside():
    one = {"step": [0, 1, 2], "in": [[0.2, 0.4, 0.8]], "out": [[0.1, 0.3, 0.3]]}
    other = {"step": [0, 1, 2], "in": [[0.2, 0.5, 0.3]], "out": [[0.1, 0.2, 0.9]]}
    gaps, levels = at_equal(one, other, "out")
    assert levels.tolist() == [0.5]
    assert gaps == pytest.approx([0.3 - 0.2])  # 0.5 inside lies between looks 1 and 2 of one, at look 1 of the other
    assert at_equal(one, one, "out")[0] == pytest.approx([0.0])
    assert one["out"][0][-1] - other["out"][0][-1] == pytest.approx(-0.6)  # what equal updates would have said


def test_an_arm_that_never_gets_above_its_base_is_compared_nowhere():
    """At the base the gap is 0 whatever the arms do: such seeds do not count, instead of counting as 0."""
    up, down = ([0.2, 0.4, 0.5], [0.1, 0.3, 0.4]), ([0.2, 0.1, 0.2], [0.1, 0.0, 0.0])
    one = {"step": [0, 1, 2], "in": [up[0], up[0]], "out": [up[1], up[1]]}
    other = {"step": [0, 1, 2], "in": [up[0], down[0]], "out": [[0.1, 0.2, 0.3], down[1]]}
    gaps, levels = at_equal(one, other, "out")
    assert gaps == pytest.approx([0.4 - 0.3, np.nan], nan_ok=True)
    assert levels == pytest.approx([0.5, np.nan], nan_ok=True)
    some, none = (where_defined(g, DIFFERENCE).estimate() for g in (gaps, gaps[1:]))
    assert some.value == pytest.approx(0.1)  # not 0.05, the mean with a 0
    assert not none
    texts = [
        equal_text({"gap": Estimate(0.0, seeds=(0.0, 0.0)).to_json(), "equal": {"gap": e.to_json()}})
        for e in (some, none)
    ]
    assert texts[0].endswith(" (1 of 2)")
    assert texts[1] == "-"


def test_the_smallest_effect_is_found_as_often_as_it_says():
    """Of 4,000 designs with that true mean 80 % find it, within what the formula approximates."""
    rng = np.random.default_rng(0)
    pilot = rng.normal(size=4000)
    found = smallest_effect((pilot / pilot.std(ddof=1)).tolist(), seeds=16)
    drawn = found.value + rng.normal(size=(4000, 16))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / 4)
    assert (np.abs(t) > 2.1314).mean() == pytest.approx(0.8, abs=0.04)  # t of 15 degrees of freedom at 97.5 %
    assert found.low < found.value < found.high
    assert smallest_effect([0.1, 0.2], 16, tests=6).value > smallest_effect([0.1, 0.2], 16).value
    assert not smallest_effect([0.1], 16)


def test_what_cannot_be_told_is_not_trained_and_reported(tmp_path):
    settings = STUDIES["finite"].settings_of("smoke")
    cells = {"gold": {s: {"verdict": CANNOT_TELL, "smallest": {"value": 0.3}} for s in ("in", "longer")}}
    cells["early"] = {"in": {"verdict": CANNOT_TELL}, "longer": {"verdict": RUN}}
    assert Settings.read({**settings, "power": cells}).trained == ("sft-success", "rloo", "sft-success-early")
    del cells["early"]
    alone = {**settings, "power": cells, "cells": settings["cells"][:2], "arms": ["sft-success", "rloo", "rft"]}
    assert Settings.read(alone).trained == ("rloo", "rft")  # rloo is in the cell `value` too, which nobody ruled out
    cells["value"] = cells["gold"]
    assert Settings.read({**alone, "power": cells}).trained == ("rft",)
    assert "none/seed-0/arms/rloo" not in {job.name for job in jobs({**alone, "power": cells})}
    (tmp_path / "study.json").write_text((CAUSES / "finite" / "study.json").read_text())
    (tmp_path / "power.json").write_text(json.dumps({"smoke": {"cells": cells}}))
    definition = Definition.read(tmp_path)
    assert definition.settings_of("smoke")["power"] == cells
    assert "power" not in definition.settings_of("pilot")


def test_the_command_of_power_writes_what_a_preset_reads(run, tmp_path):
    study, found, results = run
    write_json(tmp_path / "results.json", results)
    (tmp_path / "study.json").write_text((CAUSES / "finite" / "study.json").read_text())
    (tmp_path / "power.json").write_text('{"cpu-64": {"cells": {}}}')
    files = tmp_path / "results.json", study.path / "predictions.json"
    assert power(tmp_path, *files, preset="smoke", json=tmp_path / "power.json") == 0
    written = read_json(tmp_path / "power.json")
    assert [*written] == ["cpu-64", "smoke"]
    assert (written["smoke"]["seeds"], written["smoke"]["tests"]) == (2, 6)
    row = Definition.read(tmp_path).settings_of("smoke")["power"]["gold"]["longer"]
    assert row["ceiling"] == found["histories"]["none"]["splits"]["longer"]["room"]
    gaps = next(
        c for c in results["report"]["histories"]["none"]["cells"] if (c["id"], c["split"]) == ("gold", "longer")
    )
    expected = smallest_effect(gaps["gap"]["seeds"], 2, 6).value
    assert row["smallest"]["value"] == pytest.approx(expected, rel=1e-5)
    assert row["verdict"] in (RUN, CANNOT_TELL)


def test_verdicts_and_carriers_need_intervals_without_zero():
    sure, unsure = Estimate(0.1, t_low=0.05, t_high=0.15), Estimate(0.3, t_low=-0.1, t_high=0.7)
    assert verdict_of(sure, Estimate(0.1)) == "reward is better"
    assert verdict_of(Estimate(-0.1, t_low=-0.2, t_high=-0.01), Estimate(0.1)) == "imitation is better"
    assert verdict_of(unsure, Estimate(0.123)) == "cannot tell (could have seen 0.123)"
    assert carrier({"sampler": sure, "decider": unsure}) == "sampler"
    assert carrier({"decider": unsure}) == NOT_TOLD


def test_what_a_decider_keeps_is_bounded_by_how_far_its_laws_move():
    rng = np.random.default_rng(0)

    def drawn(low: float, p: float) -> tuple[np.ndarray, np.ndarray]:
        return rng.choice([0.05, 0.95], (400, 3), p=[low, 1 - low]), rng.random((400, 3)) < p

    inside, outside = drawn(0.2, 0.7), drawn(0.5, 0.4)
    found = {k: float(f(np.ones((1, 400)))[0]) for k, f in transfer.of_samples(inside, outside).items()}
    rate = [(s[r].mean(), s[~r].mean(), r.mean()) for s, r in (inside, outside)]
    # Two values in two bins: the variation is the difference of the frequencies, and a moves by 0.9 times that.
    assert 0.9 * found["e_r"] == pytest.approx(abs(rate[0][0] - rate[1][0]), abs=1e-12)
    assert 0.9 * found["e_w"] == pytest.approx(abs(rate[0][1] - rate[1][1]), abs=1e-12)
    assert found["fall"] == pytest.approx(np.log(rate[0][2] / (1 - rate[0][2])) - np.log(rate[1][2] / (1 - rate[1][2])))
    kept = accounting.final_accuracy(outside[1], outside[0]).mean()
    assert found["bound"] < kept
    same = {k: float(f(np.ones((1, 400)))[0]) for k, f in transfer.of_samples(inside, inside).items()}
    assert (same["e_r"], same["e_w"], same["fall"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variants": {"mine": {}}, "arms": ["mine"]}, "either `arm` or `early`"),
        ({"variants": {"mine": {"early": "rft"}}, "arms": ["mine"]}, "rft, at which it looks"),
        ({"variants": {"mine": {"arm": "rloo", "train": {"seed": 1}}}, "arms": ["mine"]}, "the study sets it"),
        ({"cells": [{"id": "x", "arm": "rloo", "against": "magic"}]}, "arm: received 'magic'"),
        ({"cells": [{"id": "x", "arm": "rloo", "against": "rft", "ceiling": "sky"}]}, "ceiling of cell x"),
    ],
)
def test_settings_of_causes_are_checked(fields, words):
    with pytest.raises(InputError, match=words):
        jobs({**STUDIES["finite"].settings_of("smoke"), "cells": [], **fields})

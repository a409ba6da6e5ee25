"""The quickstart at toy size: complete, the same after kills, and honest about what it was asked."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import pytest

import dsjax.figures
from dsjax.atlas.rows import ENTRIES
from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.study.quickstart import FILE, definition
from dsjax.study.results import read_results
from tests.kills import files_in, killed, without_clocks
from tests.programs import same_gradient, with_parts
from tests.training import run_worker


def tiny() -> dict:
    """The packaged study with everything small; without the atlas, which has no small size."""
    data = json.loads(FILE.read_text())
    (preset,) = data["presets"].values()
    preset["arms"] = ["sft-self", "rloo"]
    preset["train"] |= {"digits": 1, "width": 2, "rounds": 2, "layers": 1, "model_width": 8, "heads": 2}
    preset["train"] |= {"evaluation_problems": 4}
    small = {"updates": 2, "chunk": 1, "evaluate_every": 1, "checkpoint_every": 1, "prompts": 4}
    preset["base"] |= small
    preset["arm"] |= {**small, "group": 2}
    preset |= {"evaluation_problems": 4, "attempts": 2}
    preset["theory"]["theorems"]["options"] |= {"theorems": ["T10"], "instances": 2, "quick": True}
    del preset["theory"]["atlas"], preset["second"]
    return data


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("study") / "study.json"
    file.write_text(json.dumps(tiny()))
    return file


@pytest.fixture(scope="module")
def straight(study, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        # The slowest program to compile, which has tests of its own.
        with_parts(patch, make_gradient_measure=same_gradient)
        assert main(["quickstart", "--config", str(study), "--out", str(path)]) == 0
    return path


def test_what_a_run_leaves(straight):
    file, results = read_results("run", straight)
    assert file == straight / "results.json"
    assert results["missing"] == []
    assert results["format"] == json.loads(file.read_text())["format"] == 2
    entry = results["report"]["histories"]["none"]
    assert (entry["models"], entry["seeds"], entry["length"]) == (["base", "sft-self", "rloo"], [0], 3)
    assert [t["id"] for t in results["report"]["theory"]["theorems"]["theorems"]] == ["T10"]
    for found in entry["splits"].values():
        parts = {name: e["value"] for name, e in found["accounting"]["rloo - base"]["accuracy"].items()}
        assert parts["sampler"] + parts["decider"] == pytest.approx(parts["total"], abs=2e-6)  # rounded to six digits
        assert found["swap"]["rloo"]["rloo"]["value"] == found["measures"]["rloo"]["accuracy"]["value"]
    for figure in ("F4", "F5", "F6", "F7", "F8"):
        assert sorted(p.suffix for p in straight.glob(f"{figure}_*_none.*")) == [".csv", ".png", ".svg"]
    with (straight / "F7_log_odds_none.csv").open() as rows:
        assert {row["difference"] for row in csv.DictReader(rows)} == {"sft-self - base", "rloo - base"}


def test_the_same_command_does_nothing_twice_and_another_seed_is_refused(straight, study, capsys, monkeypatch):
    monkeypatch.setattr(dsjax.figures, "draw", lambda *_, **__: [])
    times = {p: p.stat().st_mtime_ns for p in straight.glob("jobs/**/result.json")}
    arguments = ["quickstart", "--config", str(study), "--out", str(straight)]
    assert main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in straight.glob("jobs/**/result.json")} == times
    assert "Theorems: 1 of 1 hold, 1 of 1 controls rejected." in capsys.readouterr().out
    assert main([*arguments, "--seed", "4"]) == 2
    error = capsys.readouterr().err
    assert all(words in error for words in ("seed", "received 4", "0, the value of the results in")), error
    assert {p: p.stat().st_mtime_ns for p in straight.glob("jobs/**/result.json")} == times


def test_kills_change_nothing(straight, study, tmp_path):
    path = tmp_path / "run"
    arguments = ["quickstart", "--config", str(study), "--out", str(path)]
    whole = files_in(straight / "jobs")  # one comes with every start, row, checkpoint, job and figure
    for _ in killed(run_worker.quickstart, arguments, lambda: files_in(path), whole, tmp_path / "errors"):
        pass
    assert without_clocks(read_results("run", path)[1]) == without_clocks(read_results("run", straight)[1])


def test_the_packaged_study_is_what_the_readme_says():
    found = definition()
    jobs = found.study().jobs
    assert [name for name in jobs if name.startswith("none/")] == [
        "none/seed-0/base",
        *(f"none/seed-0/arms/{arm}" for arm in ("sft-success", "sft-self", "rloo")),
        "none/seed-0/evaluation",
    ]
    assert set(jobs["theory/atlas"].options["objectives"]) <= set(ENTRIES)
    assert not any(job.startswith("sweep") for job in jobs)


def test_what_people_change():
    jobs = definition(seed=3, instances=8, updates=50).study().jobs
    assert jobs["theory/theorems"].options == {"instances": 8, "seed": 3, "quick": True}
    assert jobs["none/seed-3/base"].options["config"]["updates"] == 800
    config = jobs["none/seed-3/arms/rloo"].options["config"]
    assert (config["updates"], config["learning_rate"], config["prompts"]) == (50, 1e-4, 32)


def test_a_second_half_is_another_task_with_another_history(tmp_path):
    data = tiny()
    (preset,) = data["presets"].values()
    prefix = {"task": "prefix_sums", "digits": 3, "rounds": 3, "modulus": 10, "chain_share": 0.5}
    train = {k: v for k, v in preset["train"].items() if k != "width"} | prefix
    second = {"arms": ["sft-mixture"], "histories": ["full"], "seeds": 1, "train": train, "sweep": None}
    second |= {"attempts": 3, **{k: preset[k] for k in ("base", "arm", "evaluation_problems")}}
    preset["second"] = {**second, "base": {**second["base"], "base_source": "chains-and-guesses"}}
    (tmp_path / "study.json").write_text(json.dumps(data))
    jobs = definition(tmp_path / "study.json", seed=3, updates=4).study().jobs
    assert {name for name in jobs if name.startswith("full/")} == {
        f"full/seed-3/{name}" for name in ("base", "arms/sft-mixture", "evaluation")
    }
    of = {half: jobs[f"{half}/seed-3/arms/{arm}"] for half, arm in (("none", "rloo"), ("full", "sft-mixture"))}
    assert {job.options["config"]["task"] for job in of.values()} == {"addition", "prefix_sums"}
    assert {job.options["config"]["updates"] for job in of.values()} == {4}
    second["histories"] = ["none"]
    preset["second"] = second
    (tmp_path / "study.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="each job once"):
        definition(tmp_path / "study.json").study()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 1}, "rounds: received 1.*nothing to decide"),
        ({"temperature": 0}, "temperature: received 0"),
        ({"bogus": 1}, "configuration field: received 'bogus'"),
        ({"evaluation_problems": 10**9}, "evaluation_problems: received 1000000000.*1..1000000"),
    ],
)
def test_impossible_settings_are_refused_before_the_work(change, words, tmp_path):
    data = copy.deepcopy(tiny())
    (preset,) = data["presets"].values()
    (preset if "evaluation_problems" in change else preset["train"]).update(change)
    (tmp_path / "study.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=words):
        definition(tmp_path / "study.json")


def test_instances_need_theorems(tmp_path):
    data = tiny()
    for preset in data["presets"].values():
        preset["theory"] = {}
    (tmp_path / "study.json").write_text(json.dumps(data))
    assert definition(tmp_path / "study.json", seed=2).study().jobs["none/seed-2/base"]
    with pytest.raises(InputError, match="instances: received 3; allowed: nothing"):
        definition(tmp_path / "study.json", instances=3)

"""The study's jobs: every preset is valid, a tiny study runs to its report, and the sweep chooses as it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.study.engine import run_here
from dsjax.study.jobs import Definition, Study, merge
from dsjax.study.report import report
from dsjax.study.settings import Settings
from dsjax.study.trainings import chosen_of, jobs
from dsjax.tasks import TASKS
from tests.programs import same_gradient, with_parts

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STUDIES = {name: Definition.read(EXPERIMENTS / name) for name in ("arithmetic", "multiplication")}
TINY = {
    "arms": ["sft-self", "rloo"],
    "histories": ["none"],
    "seeds": 1,
    "train": {"digits": 1, "width": 2, "rounds": 2, "layers": 1, "model_width": 8, "heads": 2, "chunk": 2}
    | {"evaluation_problems": 4},
    "base": {"updates": 2, "evaluate_every": 2, "prompts": 8, "group": 1, "longer_share": 0.25},
    "arm": {"updates": 2, "evaluate_every": 2, "group": 2},
    "sweep": {"learning_rates": [1e-3], "prompts": [2], "problems": 4},
    "evaluation_problems": 4,
    "attempts": 3,
    "comparisons": [["rloo", "sft-self"]],
}


@pytest.mark.parametrize(("name", "preset"), [(name, preset) for name, d in STUDIES.items() for preset in d.presets])
def test_every_preset_is_valid_and_has_all_that_its_arms_need(name, preset):
    definition = STUDIES[name]
    asked = Settings.read(definition.settings_of(preset))
    found = definition.study(preset).jobs
    trained = [job for job in found if "/arms/" in job]
    seeds = sum(asked.seeds_of.get(history, asked.seeds) for history in asked.histories)
    assert len(trained) == len(asked.arms) * seeds
    for job in (found[name] for name in trained):
        assert {need.rsplit("/", 1)[1] for need in job.needs} == {"base", "choice"}
    evaluations = [job for name, job in found.items() if name.endswith("/evaluation")]
    assert all(len(job.needs) == len(asked.arms) + 1 for job in evaluations)


@pytest.mark.parametrize("name", STUDIES)
def test_hypotheses_name_arms_and_splits_of_the_study_and_have_their_own_ids(name):
    definition = STUDIES[name]
    ids = [h["id"] for h in definition.hypotheses]
    assert len(set(ids)) == len(ids)
    arms = {*definition.settings["arms"], "base"}
    assert all({h["arm"], h.get("against", "base")} <= arms for h in definition.hypotheses)
    assert all("margin" in h for h in definition.hypotheses if h["expect"] == "equivalent")
    for preset in definition.presets:
        task = Settings.read(definition.settings_of(preset)).config("base", "none", 0).task_of
        assert {h["split"] for h in definition.hypotheses} <= {*task.splits, "training"}
        assert type(task) is TASKS["multiplication" if name == "multiplication" else "addition"]


def test_the_study_of_prefix_sums_is_valid_and_its_demonstrations_are_those_that_it_predicts_from():
    definition = Definition.read(EXPERIMENTS / "causes" / "prefix_sums")
    assert len(definition.hypotheses) <= 6
    for preset in definition.presets:
        found = definition.study(preset).jobs
        trained = [job.options["config"] for job in found.values() if "config" in job.options]
        arms = {config["arm"] for config in trained}
        assert {h[k] for h in definition.hypotheses for k in ("arm", "against")} <= arms
        assert {(c["history"], c["chain_share"], c["rounds"]) for c in trained} == {("full", 0.25, 10)}


def test_a_tiny_study_runs_to_its_report(tmp_path, monkeypatch):
    # The slowest program to compile, which has tests of its own.
    with_parts(monkeypatch, make_gradient_measure=same_gradient)
    study = Study(tmp_path / "study", "tiny", "only", jobs(TINY))
    study.start()
    run_here(study, lambda name, state, fraction: None)
    assert [s.state for s in study.status()] == ["done"] * len(study.jobs), [s.message for s in study.status()]
    # Arms take step size and problems from the sweep, and their start from the base of their seed.
    arm = study.record("none/seed-0/arms/rloo")["result"]
    assert (arm["config"]["learning_rate"], arm["config"]["prompts"]) == (1e-3, 2)
    assert arm["config"]["init_from"].endswith("none/seed-0/base/run")
    assert arm["tokens_sampled"] == 2 * 2 * 2 * 2 * 3  # updates x problems x group x rounds x tokens
    assert study.record("none/seed-0/arms/sft-self")["result"]["tokens_sampled"] == 2 * 2 * 2 * 3
    with np.load(study.folder("none/seed-0/evaluation") / "longer.npz") as arrays:
        assert {name: x.shape for name, x in arrays.items()} == {
            "right": (3, 4, 3),
            "answers": (3, 4, 3, 3),
            "own": (3, 4, 3),
            "log_stop": (3, 3, 4, 2),
        }
        np.testing.assert_array_equal(arrays["log_stop"][1, 1], arrays["own"][1, :, :2])
    hypothesis = {"id": "H", "text": "", "history": "none", "split": "in", "measure": "b", "arm": "rloo"}
    hypothesis |= {"against": "base", "expect": "negative"}
    definition = Definition("tiny", "", {}, {"comparisons": TINY["comparisons"]}, (hypothesis,))
    found = report(merge(study), study.path, definition)
    json.dumps(found, allow_nan=False)
    assert list(found["histories"]["none"]["splits"]) == ["in", "longer"]
    assert [h["id"] for h in found["hypotheses"]] == ["H"]
    assert "rloo - sft-self" in found["histories"]["none"]["splits"]["in"]["differences"]


def test_the_sweep_chooses_problems_for_all_and_a_step_size_for_each():
    def row(family, rate, prompts, accuracy):
        return {"family": family, "learning_rate": rate, "prompts": prompts, "accuracy": accuracy}

    table = [row("sft", 1.0, 8, 0.9), row("sft", 2.0, 8, 0.5), row("sft", 1.0, 16, 0.6), row("sft", 2.0, 16, 0.8)]
    table += [row("reward", 1.0, 8, 0.3), row("reward", 2.0, 8, 0.4), row("reward", 1.0, 16, 0.7)]
    assert chosen_of(table) == {"prompts": 16, "sft": 2.0, "reward": 1.0}  # 0.8 + 0.7 > 0.9 + 0.4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arms": ["magic"]}, "arm: received 'magic'"),
        ({"arms": ["ppo"]}, "without a critic"),
        ({"arms": ["rloo", "rloo"]}, "each arm once"),
        ({"histories": ["some"]}, "histories"),
        ({"seeds": 0}, "seeds: received 0"),
        ({"first_seed": 999, "seeds": 2}, "which is the sweep's"),
        ({"first_seed": 999, "seeds_of": {"none": 2}}, "which is the sweep's"),
        ({"seeds_of": {"full": 2}}, "seeds_of: received 'full'"),
        ({"seeds_of": {"none": 0}}, "seeds_of.none: received 0"),
        ({"attempts": 1}, "at least rounds = 2"),
        ({"train": {"seed": 1}}, "the study sets it"),
        ({"base": {"magic": 1}}, "settings of base: configuration field"),
        ({"sweep": {"learning_rates": []}}, "at least one value"),
        ({"sweep": {"sft": "rloo"}}, "an arm of the family sft"),
        ({"comparisons": [["rloo"]]}, "pairs of arms"),
        ({"magic": 1}, "configuration field"),
    ],
)
def test_settings_are_checked(fields, words):
    with pytest.raises(InputError, match=words):
        jobs({**TINY, **fields})

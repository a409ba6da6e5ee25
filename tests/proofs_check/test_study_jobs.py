"""Theorem checks as jobs of a study: one report, and a kill loses at most the theorem being checked."""

import pytest

import proofs_check
from dsjax.study.jobs import DONE, FAILED, Job, Study
from proofs_check import study_jobs
from tests.kills import without_clocks

OPTIONS = {"theorems": ["T10", "T1"], "instances": 3, "seed": 5, "quick": True, "workers": 1}


def test_an_interrupted_check_continues_with_the_numbers_of_an_undisturbed_one(tmp_path, monkeypatch):
    job = Job("checks", "proofs_check.study_jobs:theorem", OPTIONS)
    study = Study(tmp_path, "checks", "only", [job, Job("all", "proofs_check.study_jobs:theorems", needs=("checks",))])
    study.start()
    whole, asked = study_jobs.check, []

    def check(ids, *, progress, **options):
        asked.append(ids)

        def killed_after_one(step):
            progress(step)
            if len(asked) == 1 and step.result is not None:
                raise KeyboardInterrupt

        return whole(ids, progress=killed_after_one, **options)

    monkeypatch.setattr(study_jobs, "check", check)
    with pytest.raises(KeyboardInterrupt):
        study.do("checks")
    seen = []
    assert study.do("checks", seen.append) == DONE
    assert asked == [["T10", "T1"], ["T1"]]
    assert seen[0] > 0.5
    assert seen[-1] == 1.0
    assert study.do("all") == DONE
    options = {name: value for name, value in OPTIONS.items() if name != "theorems"}
    direct = proofs_check.check(OPTIONS["theorems"], **options).to_json()
    for name in ("checks", "all"):
        assert without_clocks(study.record(name)["result"]) == without_clocks(direct)


def test_an_unknown_theorem_fails_the_job(tmp_path):
    study = Study(tmp_path, "checks", "only", [Job("T99", "proofs_check.study_jobs:theorem", {"theorems": ["T99"]})])
    study.start()
    assert study.do("T99") == FAILED
    assert "T99" in study.status()[0].message

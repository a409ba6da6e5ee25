"""The mutation run's list and its stored results, without running it (`make mutation` does)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from proofs_check.registry import THEOREMS
from tests.mutation import runner
from tests.mutation.mutations import MUTATIONS, Mutation

ROOT = runner.ROOT
MUTATED = ("attribution.py", "process.py", "evaluation/accounting.py", "trajectories.py")


def test_there_are_enough_with_ids_of_their_own():
    assert len(MUTATIONS) >= 40
    assert max(Counter(m.id for m in MUTATIONS).values()) == 1
    assert max(Counter((m.file, m.old, m.new) for m in MUTATIONS).values()) == 1
    files = {m.file for m in MUTATIONS}
    assert {f"dsjax/{name}" for name in MUTATED} <= files
    # Every module of the objectives that computes something; the registry only looks names up.
    objectives = {path.name for path in (ROOT / "dsjax/objectives").glob("*.py")} - {"__init__.py", "registry.py"}
    assert {f"dsjax/objectives/{name}" for name in objectives} <= files


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.id)
def test_changes_exactly_one_place(mutation):
    source = (ROOT / mutation.file).read_text()
    changed = mutation.apply(source)
    compile(changed, mutation.file, "exec")
    before, _, after = source.partition(mutation.old)
    assert changed == before + mutation.new + after
    assert changed != source
    assert mutation.wrong


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.id)
def test_names_evidence_that_exists(mutation):
    assert mutation.tests
    assert set(mutation.theorems) <= set(THEOREMS)
    for node in mutation.tests:
        file, *names = node.split("::")
        text = (ROOT / file).read_text()
        assert file.startswith("tests/")
        for name in names:
            assert f"def {name.partition('[')[0]}(" in text, node


def test_text_that_is_not_there_exactly_once_is_refused():
    for source in ("", "x x"):
        with pytest.raises(ValueError, match="not once"):
            Mutation("m", "f", "x", "y", "", (), ()).apply(source)


def test_key_follows_what_the_evidence_reads(tmp_path):
    (mutation, *_) = [m for m in MUTATIONS if m.file == "dsjax/evaluation/accounting.py"]
    runner.copy(ROOT, tmp_path)
    before = runner.key(mutation, tmp_path)
    assert before == runner.key(mutation, ROOT)
    (tmp_path / "tests/docs/test_readme.py").write_text("")  # a test that is not its evidence
    (tmp_path / "tests/mutation/runner.py").write_text("")
    assert runner.key(mutation, tmp_path) == before
    for path in (mutation.file, "tests/conftest.py", mutation.tests[0].partition("::")[0]):
        text = (tmp_path / path).read_text()
        (tmp_path / path).write_text(text + "\n")
        assert runner.key(mutation, tmp_path) != before
        (tmp_path / path).write_text(text)


def _library(path: Path, monkeypatch: pytest.MonkeyPatch, **found) -> None:
    """A process that gives this answer."""

    def answer(command, **_):
        (path.parent / "found.json").write_text(json.dumps(found))

    monkeypatch.setattr(runner.subprocess, "run", answer)


def test_an_answer_about_another_library_is_refused(tmp_path, monkeypatch):
    place = tmp_path / "copy"
    place.mkdir()
    here, elsewhere = str(place / "dsjax/__init__.py"), str(ROOT / "dsjax/__init__.py")
    answer = {"stage": "tests", "caught_by": "tests/x.py::test_y", "finished": True}
    _library(place, monkeypatch, dsjax=elsewhere, **answer)
    with pytest.raises(runner.MutationRunError, match="not the copy"):
        runner.gather(place, (), (), 1.0)
    _library(place, monkeypatch, dsjax=here, **answer)
    assert runner.gather(place, (), (), 1.0).caught_by == "test tests/x.py::test_y"
    _library(place, monkeypatch, dsjax=here, **{**answer, "finished": False})
    with pytest.raises(runner.MutationRunError, match="no answer"):
        runner.gather(place, (), (), 1.0)
    _library(place, monkeypatch, dsjax=here, **answer)
    with pytest.raises(runner.MutationRunError, match="the unchanged library fails"):
        runner.check_unchanged([place], MUTATIONS[:1])


def test_late_is_caught(tmp_path, monkeypatch):
    place = tmp_path / "copy"
    place.mkdir()

    def late(command, **_):
        found = {"dsjax": str(place / "dsjax/__init__.py"), "stage": "T1", "caught_by": None, "finished": False}
        (tmp_path / "found.json").write_text(json.dumps(found))
        raise runner.subprocess.TimeoutExpired(command, 1.0)

    monkeypatch.setattr(runner.subprocess, "run", late)
    assert runner.gather(place, ("T1",), (), 1.0).caught_by == "timeout in T1"


def test_stored_results_are_those_of_the_list_and_nothing_survived():
    data = json.loads(runner.RESULTS.read_text())
    assert set(data) == {"version", "commit", "content", "mutations", "survived", "pending"}
    # What no run has tried yet is named, not left out.
    assert [(e["id"], e["file"], e["description"]) for e in data["mutations"]] == [
        (m.id, m.file, m.wrong) for m in MUTATIONS if m.id not in data["pending"]
    ]
    assert data["survived"] == []
    assert all(e["caught_by"] and e["seconds"] > 0 for e in data["mutations"])
    by_theorem = [e for e in data["mutations"] if e["caught_by"].startswith("theorem ")]
    # Of the whole list: the older errors were written before the theorems that catch them now.
    assert data["pending"] or len(by_theorem) >= 0.6 * len(MUTATIONS)

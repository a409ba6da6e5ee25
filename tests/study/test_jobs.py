"""Studies of jobs: done once, by one run at a time, resumed after a kill, failed and tried again, merged."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from dsjax.cli import study as commands
from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.study.engine import run_here
from dsjax.study.jobs import DONE, RUNNING, TODO, WAITING, Definition, Job, Study, merge
from tests.cli.plain import assert_plain
from tests.kills import files_in, killed, without_clocks
from tests.study import jobs_example
from tests.training import run_worker

ROOT = Path(__file__).parents[2]
EXAMPLE = "tests.study.jobs_example"
SETTINGS: dict[str, Any] = {"seeds": 2, "arms": ["a", "b"], "count": 4}


def started(path: Path, jobs: list[Job]) -> Study:
    made = Study(path, "example", "smoke", jobs)
    made.start()
    return made


def drawing(path: Path, reverse: bool = False) -> Study:
    jobs = jobs_example.jobs(SETTINGS)
    return started(path, jobs[::-1] if reverse else jobs)


def in_halves(path: Path, log: Path, names: tuple[str, ...] = ("one",)) -> Study:
    return started(path, [Job(name, f"{EXAMPLE}:halves", {"log": str(log)}) for name in names])


def states(made: Study) -> dict[str, str]:
    return {status.job.name: status.state for status in made.status()}


def other_run(path: Path) -> subprocess.Popen[bytes]:
    """Another process that runs the study on that path."""
    code = "import sys; from dsjax.study import engine, jobs; engine.run_here(jobs.Study.load(sys.argv[1]))"
    return subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)


def wait_for(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(log: Path) -> list[str]:
    return [line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_every_job_runs_once_with_the_results_of_its_needs(tmp_path):
    made = drawing(tmp_path / "s")
    notices = []
    run_here(made, lambda *n: notices.append(n))
    assert set(states(made).values()) == {DONE}
    merged = merge(made)
    assert merged["missing"] == []
    assert list(merged["jobs"]) == sorted(made.jobs)
    base = float(jax.random.normal(jax.random.key(1), (3,)).sum())
    arm = float(jax.random.normal(jax.random.key(21), (4,)).sum())
    assert merged["jobs"]["base/seed-1"]["result"] == {"sum": base, "needs": []}
    assert merged["jobs"]["b/seed-1"]["result"] == {"sum": arm + base, "needs": ["base/seed-1"]}
    assert merged["jobs"]["b/seed-1"]["options"] == {"seed": 21, "count": 4}
    assert [n for n in notices if n[0] == "a/seed-0"] == [
        ("a/seed-0", RUNNING, 0.5),
        ("a/seed-0", RUNNING, 1.0),
        ("a/seed-0", DONE, 1.0),
    ]
    assert made.record("a/seed-0")["provenance"]["device"]["platform"] == "cpu"

    before = {name: (made.folder(name) / "result.json").stat().st_mtime_ns for name in made.jobs}
    run_here(drawing(tmp_path / "s"), lambda *n: pytest.fail(f"{n} ran again"))
    assert before == {name: (made.folder(name) / "result.json").stat().st_mtime_ns for name in made.jobs}


def test_the_merged_results_do_not_depend_on_the_order(tmp_path):
    made = [drawing(tmp_path / "a"), drawing(tmp_path / "b", reverse=True)]
    ran: list[list[str]] = [[], []]
    for one, names in zip(made, ran, strict=True):
        run_here(one, lambda name, state, _, names=names: names.append(name) if state == DONE else None)
    assert ran[0] != ran[1]
    assert json.dumps(merge(made[0])) == json.dumps(merge(made[1]))


def test_missing_jobs_are_named(tmp_path):
    made = drawing(tmp_path / "s")
    assert made.do("base/seed-1") == DONE
    merged = merge(made)
    assert list(merged["jobs"]) == ["base/seed-1"]
    assert merged["missing"] == ["a/seed-0", "a/seed-1", "b/seed-0", "b/seed-1", "base/seed-0"]
    found = states(made)
    assert (found["a/seed-0"], found["a/seed-1"], found["base/seed-0"]) == (WAITING, TODO, TODO)


@pytest.mark.parametrize(("value", "error"), [("nan", "ValueError"), ("object", "TypeError")])
def test_a_result_that_is_no_json_is_a_failure(tmp_path, value, error):
    made = started(tmp_path / "s", [Job("one", f"{EXAMPLE}:returns", {"value": value})])
    run_here(made)
    assert made.status()[0].message.startswith(error)
    assert merge(made)["missing"] == ["one"]


def test_work_that_cannot_be_imported_is_a_failure(tmp_path):
    made = started(tmp_path / "s", [Job("one", f"{EXAMPLE}:nothing")])
    run_here(made)
    assert "kind of job one" in made.status()[0].message


@pytest.mark.parametrize("content", [b"", b'{"result": {"su', bytes(100), b"[]", b'{"result": 3}'])
def test_a_job_whose_result_is_damaged_is_done_again(tmp_path, content):
    made = drawing(tmp_path / "s")
    run_here(made)
    before = merge(made)
    (made.folder("base/seed-1") / "result.json").write_bytes(content)
    assert states(made)["base/seed-1"] == TODO
    assert merge(made)["missing"] == ["base/seed-1"]
    run_here(made)
    assert merge(made) == before


def test_a_second_run_of_a_study_is_refused(tmp_path):
    made = drawing(tmp_path / "s")
    with made.held():
        for second in (lambda: run_here(drawing(tmp_path / "s")), lambda: run_here(Study.load(tmp_path / "s"))):
            with pytest.raises(InputError, match=r"output directory: .*one that no other process is using"):
                second()
    run_here(made)
    assert set(states(made).values()) == {DONE}


def test_a_killed_run_can_be_continued_and_what_its_job_kept_is_there(tmp_path):
    log = tmp_path / "log"
    (tmp_path / "wait").touch()
    made = in_halves(tmp_path / "s", log)
    other = other_run(made.path)
    wait_for(lambda: lines(log) == ["one first", "one second"])
    assert states(made) == {"one": RUNNING}
    with pytest.raises(InputError, match="one that no other process is using"):
        run_here(made)
    other.send_signal(signal.SIGKILL)
    assert other.wait() == -signal.SIGKILL
    assert states(made) == {"one": TODO}
    (tmp_path / "wait").unlink()
    run_here(made)
    assert lines(log) == ["one first", "one second", "one second"]
    straight = in_halves(tmp_path / "t", tmp_path / "log")
    run_here(straight)
    assert merge(made) == merge(straight)
    assert merge(made)["jobs"]["one"]["result"] == {"total": len("first") + len("second")}


def test_an_interrupt_leaves_the_study_as_it_is(tmp_path):
    made = in_halves(tmp_path / "s", tmp_path / "log")

    def interrupt(name, state, fraction):
        if fraction == 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(made, interrupt)
    assert states(made) == {"one": TODO}
    run_here(made)
    assert lines(tmp_path / "log") == ["one first", "one second"]


def test_seconds_count_earlier_runs(tmp_path):
    made = in_halves(tmp_path / "s", tmp_path / "log")
    (made.folder("one") / "progress.json").write_text('{"fraction": 0.5, "seconds": 1000.0}')
    assert (made.status()[0].fraction, made.status()[0].seconds) == (0.5, 1000.0)
    run_here(made)
    assert made.record("one")["seconds"] >= 1000.0


@pytest.mark.parametrize(
    ("jobs", "field", "received"),
    [
        (lambda: [], "jobs", []),
        (lambda: [Job("a", "m:f"), Job("a", "m:f")], "job name", "a"),
        (lambda: [Job("a", "m:f"), Job("a/b/c", "m:f")], "job name", "a/b/c"),
        (lambda: [Job("a", "m:f", needs=("b",))], "needs of job a", "b"),
        (lambda: [Job("a", "m:f", needs=("a",))], "needs", "a -> a"),
        (lambda: [Job("a", "m:f", needs=("b",)), Job("b", "m:f", needs=("a",))], "needs", "a -> b -> a"),
        (lambda: [Job("../a", "m:f")], "job name", "../a"),
        (lambda: [Job("a/../b", "m:f")], "job name", "a/../b"),
        (lambda: [Job("/a", "m:f")], "job name", "/a"),
        (lambda: [Job("a b", "m:f")], "job name", "a b"),
        (lambda: [Job("a/", "m:f")], "job name", "a/"),
        (lambda: [Job("", "m:f")], "job name", ""),
        (lambda: [Job("a", "m:f", work=0)], "work of job a", 0),
    ],
)
def test_impossible_lists_are_refused(tmp_path, jobs, field, received):
    with pytest.raises(InputError) as error:
        Study(tmp_path / "s", "example", "smoke", jobs())
    assert (error.value.field, error.value.received) == (field, received)
    assert not (tmp_path / "s").exists()


def test_options_are_plain_data(tmp_path):
    assert Job("a", "m:f", {"x": (1, 2)}).options == {"x": [1, 2]}
    for bad in (object(), float("nan")):
        with pytest.raises(InputError, match="options of job a"):
            Job("a", "m:f", {"x": bad})


def test_jobs_are_taken_from_another_study_if_they_and_what_they_need_are_the_same(tmp_path):
    one = drawing(tmp_path / "one")
    run_here(one)
    arms = [name for name, job in one.jobs.items() if job.needs]
    changed = [
        replace(job, options={**job.options, "count": 5}) if job.name == arms[0] else job for job in one.jobs.values()
    ]
    changed.append(Job("own", f"{EXAMPLE}:draw", {"seed": 7, "count": 1}))  # which the other has not
    part = started(tmp_path / "part", changed)
    assert {*part.adopt(one)} == {*one.jobs} - {arms[0]}
    run_here(part)
    for name in arms[1:]:
        assert part.record(name) == one.record(name)

    other = started(tmp_path / "other", changed)
    assert other.adopt(one, needs=False) == ["base/seed-0", "base/seed-1"]
    assert other.record("base/seed-0") == one.record("base/seed-0")
    assert (other.folder("base/seed-0") / "config.json").exists()
    assert not (other.path / "copied").exists()
    assert {n for n, state in states(other).items() if state == DONE} == {"base/seed-0", "base/seed-1"}
    assert other.adopt(one, needs=False) == []  # they are there
    run_here(other)
    assert set(states(other).values()) == {DONE}
    # An arm from another base is another arm.
    bases = [job if job.needs else replace(job, options={**job.options, "count": 5}) for job in one.jobs.values()]
    with pytest.raises(InputError, match="reuse"):
        started(tmp_path / "third", bases).adopt(one)


def test_results_of_other_options_are_refused_and_new_jobs_are_taken(tmp_path):
    run_here(drawing(tmp_path / "s"))
    jobs = jobs_example.jobs({**SETTINGS, "count": 5})
    with pytest.raises(InputError) as error:
        started(tmp_path / "s", jobs)
    assert (error.value.field, error.value.received) == ("options.count", 5)
    assert len(Study.load(tmp_path / "s").jobs) == 6
    more = started(tmp_path / "s", jobs_example.jobs({**SETTINGS, "seeds": 3}))
    assert len(merge(more)["missing"]) == 3
    run_here(more)
    assert merge(Study.load(tmp_path / "s"))["missing"] == []


def test_another_study_and_a_foreign_directory_are_refused(tmp_path):
    drawing(tmp_path / "s")
    with pytest.raises(InputError, match=r"preset: received 'cpu'; allowed: 'smoke'"):
        Study(tmp_path / "s", "example", "cpu", jobs_example.jobs(SETTINGS)).start()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"it holds thesis\.tex"):
        drawing(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    with pytest.raises(InputError, match="study directory"):
        Study.load(tmp_path / "mine")


def write_definition(folder: Path, **changes: Any) -> Path:
    data = {
        "name": "example",
        "jobs": f"{EXAMPLE}:jobs",
        "report": f"{EXAMPLE}:report",
        "hypotheses": ["arms differ"],
        "arms": ["a", "b"],
        "count": 4,
        "presets": {"smoke": {"seeds": 1}, "cpu": {"seeds": 2, "count": 5}},
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps({**data, **changes}))
    return folder


def test_a_preset_changes_the_shared_settings(tmp_path):
    definition = Definition.read(write_definition(tmp_path / "d"))
    assert definition.hypotheses == ("arms differ",)
    smoke, cpu = definition.study(), definition.study("cpu", tmp_path / "out")
    assert (smoke.preset, str(smoke.path), len(smoke.jobs)) == ("smoke", "runs/example-smoke", 3)
    assert (cpu.preset, cpu.path, len(cpu.jobs)) == ("cpu", tmp_path / "out", 6)
    assert (smoke.jobs["a/seed-0"].options["count"], cpu.jobs["a/seed-0"].options["count"]) == (4, 5)
    with pytest.raises(InputError, match="preset: received 'gpu'; allowed: smoke, cpu"):
        definition.study("gpu")


def test_a_preset_extends_another(tmp_path):
    presets = {
        "cpu": {"seeds": 2, "train": {"width": 64, "layers": 2}, "list": [1, 2]},
        "again": {"extends": "cpu", "first_seed": 5, "train": {"width": 128}},
        "third": {"extends": "again", "list": [3], "count": 7},
    }
    definition = Definition.read(write_definition(tmp_path / "d", presets=presets))
    assert definition.settings_of("again") == {
        "arms": ["a", "b"],
        "count": 4,
        "seeds": 2,
        "first_seed": 5,
        "train": {"width": 128, "layers": 2},
        "list": [1, 2],
    }
    third = {"list": [3], "count": 7}
    assert definition.settings_of("third") == {**definition.settings_of("again"), **third}
    assert definition.settings_of("cpu")["train"] == {"width": 64, "layers": 2}
    assert len(definition.study("third").jobs) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"presets": {"a": {"extends": "b"}}}, r"presets\.a\.extends: received 'b'"),
        ({"presets": {"a": {"extends": "a"}}}, r"presets\.a\.extends: received 'a'"),
        ({"presets": {"a": {"extends": "b"}, "b": {"extends": "a"}}}, r"presets\.b\.extends: received 'a'"),
        ({"presets": {"a": {"extends": 3}}}, r"presets\.a\.extends: received 3"),
        ({"name": None}, "name in"),
        ({"name": "../escaped"}, r"name in .*: received '\.\./escaped'; allowed: letters, digits"),
        ({"name": "/absolute"}, "name in"),
        ({"presets": {"../cpu": {}}}, r"preset in .*: received '\.\./cpu'"),
        ({"presets": {}}, "presets in"),
        ({"presets": {"smoke": 3}}, "presets in"),
        ({"jobs": "nothing:here"}, "jobs of the study"),
        ({"jobs": "builtins:dict"}, "list of Job"),
    ],
)
def test_a_bad_definition_is_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        Definition.read(write_definition(tmp_path / "d", **changes)).study()


@pytest.mark.parametrize(
    "fields", [{"study": "../escaped"}, {"preset": "/tmp"}, {"jobs": [{"name": "../a", "kind": "m:f"}]}]
)
def test_names_in_a_directory_stay_inside_of_it(tmp_path, fields):
    drawing(tmp_path / "s")
    file = tmp_path / "s" / "jobs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(InputError, match=r"allowed: .*letters, digits and _"):
        Study.load(tmp_path / "s")


def test_a_folder_without_a_definition_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"study\.json"):
        Definition.read(tmp_path)


def said(command: Callable[..., int], *arguments: Any, **flags: Any) -> tuple[int, str]:
    """Exit status and what a command says in a pipe."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = command(*arguments, **flags)
    assert_plain(out.getvalue(), out_of_width=("/out",))
    return status, out.getvalue()


def test_run_status_and_report(tmp_path):
    folder, out = write_definition(tmp_path / "d"), tmp_path / "out"
    with pytest.raises(InputError, match="study directory"):
        said(commands.status, folder, out=out)
    status, text = said(commands.run, folder, out=out)
    assert status == 0
    assert "3 done" in text
    status, text = said(commands.status, folder, out=out)
    assert status == 0
    assert [line.split()[:2] for line in text.splitlines() if "seed" in line] == [
        ["base/seed-0", "done"],
        ["a/seed-0", "done"],
        ["b/seed-0", "done"],
    ]
    assert said(commands.report, folder, out=out)[0] == 0
    results = json.loads((out / "results.json").read_text())
    assert results["report"] == {"jobs": 3, "missing": 0}
    assert results["hypotheses"] == ["arms differ"]
    assert set(results["seconds"]) == set(results["jobs"])
    assert len(results["provenance"]) == 1
    assert {key: results[key] for key in merge(Study.load(out))} == merge(Study.load(out))
    with pytest.raises(InputError, match="preset"):
        said(commands.run, folder, preset="cpu", out=out)
    with pytest.raises(InputError, match="preset cpu"):
        said(commands.report, folder, preset="cpu", out=out)


def test_kills_of_a_study_change_nothing_and_a_theorem_that_was_checked_stays_checked(tmp_path):
    folder = write_definition(tmp_path / "d", jobs=f"{EXAMPLE}:before_checks")
    straight, path = tmp_path / "straight", tmp_path / "killed"
    assert main(["study", "run", str(folder), "--out", str(straight)]) == 0
    checked = "jobs/checks/stages/T10/result.json"
    arguments = ["study", "run", str(folder), "--out", str(path)]

    def done() -> int:
        return files_in(path, "result.json")

    kept = set()
    for _ in killed(run_worker.command, arguments, done, 4, tmp_path / "errors", last=4):  # three jobs, one theorem
        kept |= {file.stat().st_mtime_ns for file in path.glob(checked)}
    assert kept == {(path / checked).stat().st_mtime_ns}
    assert without_clocks(merge(Study.load(path))) == without_clocks(merge(Study.load(straight)))
    assert merge(Study.load(path))["missing"] == []


def broken_jobs(settings: dict[str, Any]) -> list[Job]:
    return [
        Job("bad", f"{EXAMPLE}:fails_while", {"file": settings["file"]}),
        Job("after", f"{EXAMPLE}:draw", {"seed": 0, "count": 1}, ("bad",)),
    ]


def test_a_failure_is_reported_with_exit_status_1(tmp_path):
    (tmp_path / "broken").touch()
    shared = {"jobs": "tests.study.test_jobs:broken_jobs", "file": str(tmp_path / "broken"), "report": None}
    folder, out = write_definition(tmp_path / "d", **shared), tmp_path / "out"
    for _ in range(2):
        status, text = said(commands.run, folder, out=out)
        assert status == 1
        assert "1 failed, 1 waiting" in text
        assert "bad: FloatingPointError: loss is nan" in text
        assert str(out / "jobs" / "bad" / "error.json") in text
    assert "loss is nan" in said(commands.status, folder, out=out)[1]
    status, text = said(commands.report, folder, out=out)
    assert status == 1
    assert [line for line in text.splitlines() if line.startswith("missing")] == ["missing: after", "missing: bad"]
    (tmp_path / "broken").unlink()
    assert said(commands.run, folder, out=out)[0] == 0
    assert said(commands.report, folder, out=out)[0] == 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"resources": ("GPU=1",)}, "resources"),
        ({"workers": 2, "address": "x"}, "workers and address"),
        ({"workers": 0}, "workers"),
        ({"workers": 1, "resources": ("GPU",)}, "resources"),
        ({"workers": 1, "resources": ("GPU=x",)}, "resources"),
        ({"workers": 1, "resources": ("GPU=0",)}, "resources"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, field):
    with pytest.raises(InputError) as error:
        said(commands.run, write_definition(tmp_path / "d"), out=tmp_path / "out", **options)
    assert error.value.field == field
    assert not (tmp_path / "out").exists()

"""The user's own code: whatever it does, status 2 with `module:function`, what it did, and the line of its file."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.objectives.returns import loss_of, sum_and_count
from dsjax.own import import_function, own_line
from dsjax.study.jobs import FAILED, Definition, Study
from dsjax.study.results import collect
from dsjax.trajectories import Trajectories
from tests.cli.test_bad_input import refused
from tests.hostile import own

HERE = own.__name__
LINE = f"own.py, line {own.RAISES})"
MODULES = {
    "syntax": ("def f(:\n", "SyntaxError: ", ", line 1)"),
    "raising": ("\n\nx = 1 / 0\n", "ZeroDivisionError: division by zero", ", line 3)"),
    "leaving": ("import sys\nsys.exit(0)\n", "SystemExit: it asked Python to exit with 0", ", line 2)"),
    "lacking": ("import nothing_like_this\n", "ModuleNotFoundError: No module named 'nothing_like_this'", ", line 1)"),
    "deep": ("def f():\n    f()\n\n\nf()\n", "RecursionError: ", ", line "),
    "binary": ("\x00", "", ""),
}
ASKED = {  # by field: how a command is given the name
    "process": ["check", "--process"],
    "objective": ["atlas", "--objective"],
    "task": ["train", "tiny.json", "--run", "run", "--task"],
    "arm": ["train", "tiny.json", "--run", "run", "--arm"],
    "network": ["train", "tiny.json", "--run", "run", "--network"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "tiny.json").write_text('{"updates": 4, "evaluate_every": 2, "chunk": 1}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("field", ASKED)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_cannot_be_imported(name, field, here, capsys):
    text, what, line = MODULES[name]
    module = f"hostile_{name}_{field}"
    (here / f"{module}.py").write_text(text)
    said = refused([*ASKED[field], f"{module}:f"], capsys)
    assert all(words in said for words in (f"{field} {module}:f", what, line)), said
    assert not (here / "run").exists()


@pytest.mark.parametrize("field", ASKED)
@pytest.mark.parametrize(
    "name", ["nowhere", "", ":", "a:", ":b", "../own:f", "a b:c", "/absolute/own:f", "os:", "os.:f", "os:1"]
)
def test_names_that_are_none(name, field, here, capsys):
    if field in ("objective", "arm") and name == "nowhere":
        name = "nowhere:f"
    said = refused([*ASKED[field], name], capsys)
    assert field in said, said


@pytest.mark.parametrize(
    "name", ["raises", "leaves", "returns_none", "returns_text", "returns_numpy", "yields", "number"]
)
@pytest.mark.parametrize("field", ["process", "task", "network"])
def test_a_function_that_returns_something_else(name, field, here, capsys):
    said = refused([*ASKED[field], f"{HERE}:{name}"], capsys)
    assert f"{field}" in said
    assert f"{HERE}:{name}" in said
    if name == "raises":
        assert "ValueError: two lines" in said
        assert LINE in said
    if name == "leaves":
        assert "SystemExit: it asked Python to exit with 0" in said


PROCESSES = {
    "law": ("prompt_law", "sum to 1"),
    "law_nan": ("prompt_law", "sum to 1"),
    "rewards": ("reward_table", "[0, 1]"),
    "rewards_nan": ("reward_table", "[0, 1]"),
    "table": ("reward_table.shape", "[Q, V^L]"),
    "cost_nan": ("cost", "finite"),
    "rounds_many": ("rounds", "1000000000"),
    "answers_many": ("length", "1000000"),
    "fractions": ("vocabulary", "2.0"),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_is_none(name, here, capsys):
    said = refused(["check", "--process", f"{HERE}:{name}"], capsys)
    assert all(words in said for words in (f"process {HERE}:{name}: ", *PROCESSES[name], "own.py, line ")), said


def test_a_process_made_without_checks(here, capsys):
    assert "prompt_law" in refused(["check", "--process", f"{HERE}:unchecked"], capsys)


TASKS = {
    "Score": "[2.0]",
    "ScoreNan": "[nan]",
    "ScoreWrong": "above 1/2",
    "ScoreShape": "[n, K]",
    "Symbols": "tokens of 0..1",
    "Floats": "integers of shape (4, 1)",
    "Lengths": "integers of shape (4, 2)",
    "Branches": "TracerBoolConversionError",
    "Escapes": "'../out'",
    "Sizes": "2.5",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_is_none(name, here, capsys):
    said = refused([*ASKED["task"], f"{HERE}:{name}"], capsys)
    assert f"task {HERE}:{name}" in said, said
    assert TASKS[name] in said


@pytest.mark.parametrize(
    ("name", "words"),
    [("logits", "a law that sums to"), ("nans", "a law that sums to"), ("short", "log pi_sample of the policy")],
)
def test_a_network_without_laws(name, words, here, capsys):
    small = ["--task", f"{HERE}:Small"]
    assert words in refused([*ASKED["network"], f"{HERE}:{name}", *small], capsys)


OBJECTIVES = {
    "raises": "ValueError: two lines",
    "leaves": "SystemExit",
    "returns_none": "NoneType",
    "returns_text": "str",
    "returns_one": "1 value of shape ()",
    "returns_three": "3 values",
    "returns_nan": "1 value",
    "returns_numpy": "1 value of shape (3,)",
    "yields": "generator",
    "branches": "TracerBoolConversionError",
    "to_numpy": "TracerArrayConversionError",
    "shapes": "shapes (2,), (2,)",
    "texts": "str",
    "imaginary": "complex64",
    "indexes": "AttributeError: 'Trajectories' object has no attribute 'nothing'",
    "one_argument": "TypeError",
}


@pytest.fixture(scope="module")
def sampled():
    mask = np.array([[True, False]])
    traj = Trajectories.create(
        tokens=jnp.zeros((1, 2), jnp.int32),
        prompt=jnp.zeros((1, 1), jnp.int32),
        sample_mask=jnp.asarray(mask),
        decision_mask=jnp.asarray(~mask),
        round=jnp.zeros((1, 2), jnp.int32),
        reward=jnp.ones(1),
        weight=jnp.ones(1),
        group=jnp.zeros(1, jnp.int32),
        num_groups=1,
    )
    return jnp.full((1, 2), -1.0), traj


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_that_is_none(name, sampled):
    """As in training and the atlas: on traced values."""
    logp, traj = sampled
    function = resolve(f"{HERE}:{name}")
    with pytest.raises(InputError) as found:
        jax.eval_shape(lambda x: sum_and_count(function, x, traj), logp)
    said = str(found.value)
    assert f"objective {HERE}:{name}" in said
    assert OBJECTIVES[name] in said
    raised = name in ("raises", "leaves", "branches", "to_numpy", "indexes")
    assert ("own.py, line " in said) == raised


@pytest.mark.parametrize("name", ["count_nan", "count_negative"])
def test_a_count_that_is_none_gives_nan_and_not_zero(name, sampled):
    logp, traj = sampled
    loss, gradient = jax.value_and_grad(lambda x: loss_of(resolve(f"{HERE}:{name}"), x, traj))(logp)
    assert np.isnan(loss)
    assert np.isnan(gradient).all()
    assert loss_of(resolve(f"{HERE}:count_zero"), logp, traj) == 0


STUDY = {"name": "s", "presets": {"a": {}}, "settings": {}}


@pytest.mark.parametrize(
    "name", ["raises", "leaves", "returns_none", "returns_text", "returns_numpy", "yields", "strings"]
)
def test_jobs_that_are_none(name, tmp_path):
    definition = Definition(jobs=f"{HERE}:{name}", **STUDY)
    with pytest.raises(InputError, match="jobs of the study") as found:
        definition.study(out=tmp_path / "out")
    assert f"{HERE}:{name}" in str(found.value)
    assert not (tmp_path / "out").exists()


REPORTS = ("report_number", "report_list", "report_none", "report_nan", "report_object", "report_tables")
REPORTS += ("report_columns", "report_cells", "report_ragged", "raises", "leaves", "returns_nan")


@pytest.mark.parametrize("name", REPORTS)
def test_reports_that_are_none(name, tmp_path):
    definition = Definition(jobs=f"{HERE}:jobs", report=f"{HERE}:{name}", **STUDY)
    study = definition.study(out=tmp_path / "out")
    study.start()
    with pytest.raises(InputError) as found:
        collect(study, definition)
    assert f"{HERE}:{name}" in str(found.value)
    fine = Definition(jobs=f"{HERE}:jobs", report=f"{HERE}:fine", **STUDY)
    assert collect(study, fine)["report"] == own.fine(None, None, None)


def test_a_report_that_cannot_be_found_is_refused_before_the_jobs(tmp_path):
    with pytest.raises(InputError, match="report of the study"):
        Definition(jobs=f"{HERE}:jobs", report=f"{HERE}:nothing", **STUDY).study(out=tmp_path)


@pytest.mark.parametrize("kind", [f"{HERE}:leaves", f"{HERE}:raises", f"{HERE}:returns_nan", "no.such:module"])
def test_a_job_that_fails_is_no_success(kind, tmp_path):
    """Exit included: the run goes on and says so."""
    study = Study(tmp_path, "s", "a", own.jobs({"job": {"kind": kind}}))
    with study.held():
        assert study.do("j") == FAILED
    (status,) = study.status()
    assert status.message


def test_the_line_is_the_users(tmp_path):
    with pytest.raises(InputError) as found:
        import_function("f", f"{HERE}:number")
    assert own_line(found.value) is None or "test_own_code" in (own_line(found.value) or "")


def test_exit_in_code_that_nobody_guards(capsys, monkeypatch):
    monkeypatch.setattr("dsjax.cli.main._parsed", lambda arguments: own.leaves)
    assert main(["check"]) == 2
    assert "it asked Python to exit with 0" in capsys.readouterr().err

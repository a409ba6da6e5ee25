"""The runner on toy theorems: what counts as failure, determinism, chunks, one compilation a shape."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import proofs_check
from dsjax.errors import InputError
from dsjax.evaluation import accounting
from proofs_check import registry, runner
from proofs_check.extremes import WITHOUT_REFERENCE, Spared
from proofs_check.instances import Shape
from proofs_check.statement import Statement
from proofs_check.theorem import Theorem, always
from proofs_check.theorems.t10_accounting import numeric as t10_accounting
from tests import processes


def theorem(
    *,
    equal=lambda x: jnp.abs(x - x),
    margin=lambda x: x**2,
    shifted=lambda x: jnp.abs(x - (x + 1e-3)),
    when=always,
    **changes,
):
    """A toy; `when` is where its control applies."""
    changes.setdefault("shapes", ("small", "large"))
    toy = Theorem(
        Statement("X", "[N]", "Toy", "a number [with brackets]", "x = x"),
        tolerance=1e-12,
        draw=lambda key, shape, process=None: jax.random.normal(key) * (1.0 if shape == "small" else 10.0),
        **changes,
    )
    claim = toy.on().equation("equal", equal)
    toy.on().inequality("positive", margin, strict=True)
    toy.on(when).control("shifted", claim, shifted)
    return toy


@pytest.fixture
def toy(monkeypatch):
    """Register a variant of the toy theorem and run it."""

    def run(instances=8, seed=0, progress=None, process=None, **changes):
        changes.setdefault("on_process", lambda theorem, shape, process: theorem.shapes)
        monkeypatch.setitem(registry.THEOREMS, "X", theorem(**changes))
        return proofs_check.check("X", instances=instances, seed=seed, progress=progress, process=process)

    return run


def test_toy_passes(toy):
    report = toy()
    assert report.ok
    (result,) = report.rows
    assert result.worst_error == 0
    assert result.smallest_margin > 0
    assert result.seconds == pytest.approx(result.compile_seconds + result.run_seconds)


def broken(x):
    return jnp.where(x > 12, 1e-9, 0.0)


def test_one_broken_instance_fails_and_is_named(toy):
    report = toy(instances=100, equal=broken)
    assert not report.ok
    (result,) = report.rows
    claim = result.claims[0]
    assert not claim.ok
    assert claim.worst_error == 1e-9
    assert claim.worst.shape == "large"
    assert result.control_rejected
    assert any("equal" in line and f"instance {claim.worst.index} of shape large" in line for line in report.failures())


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_an_error_that_is_not_finite_fails(toy, value):
    report = toy(equal=lambda x: jnp.where(x < 0, value, 0.0))
    assert not report.ok
    (row,) = json.loads(json.dumps(report.to_json(), allow_nan=False))["theorems"]
    assert row["status"] == "failed"
    assert row["worst_error"] is None


def test_a_margin_that_is_not_finite_or_not_positive_fails(toy):
    for margin in (jnp.nan, 0.0):
        report = toy(margin=lambda x, m=margin: m + 0 * x)
        assert not report.ok
        json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("error", [lambda x: jnp.where(x > 1, 0.0, 1.0), lambda x: x * jnp.nan])
def test_a_control_that_passes_anywhere_fails_the_theorem(toy, error):
    report = toy(instances=64, shifted=error)
    assert not report.ok
    (result,) = report.rows
    assert all(c.ok for c in result.claims)
    assert not result.control_rejected
    assert any("control not rejected" in line for line in report.failures())


@pytest.mark.parametrize("spared", [(), (Spared("sharp", "why", ("equal",)),)])
def test_an_extreme_is_asked_of_claims_that_are_not_spared_and_of_no_control(toy, spared):
    shape = Shape(rounds=2, length=1, vocabulary=2)
    report = toy(
        instances=16,
        shapes=(shape,),
        extreme=lambda x, number, names: jnp.where(number == names.index("sharp"), 1e3 + x, x),
        equal=lambda x: jnp.where(x > 500, 1e-9, 0.0),
        shifted=lambda x: jnp.where(x > 500, 0.0, 1.0),
        spared=(*spared, WITHOUT_REFERENCE),
    )
    (result,) = report.rows
    assert result.deciding_instances == 16
    assert result.control_rejected
    assert result.controls[0].instances == 12
    (extreme,) = result.extremes
    assert (extreme.name, extreme.instances) == ("sharp", 4)
    assert report.ok == bool(spared)
    if not spared:
        assert (extreme.claim, extreme.worst_error, extreme.worst.index) == ("equal", 1e-9, 3)


def test_of_an_equation_with_a_margin_the_margin_alone_is_spared(monkeypatch):
    toy = theorem(
        shapes=(Shape(rounds=2, length=1, vocabulary=2),),
        extreme=lambda x, number, names: jnp.where(number >= 0, -jnp.abs(x), jnp.abs(x)),
        spared=(Spared("sharp", "why", ("both", "positive")), WITHOUT_REFERENCE),
    )
    toy.on().equation("both", lambda x: jnp.where(x < 0, 1e-13, 0.0), margin=lambda x: x, strict=True)
    monkeypatch.setitem(registry.THEOREMS, "X", toy)
    report = proofs_check.check("X", instances=8)
    assert report.ok
    (both,) = [c for c in report.rows[0].claims if c.name == "both"]
    assert both.worst_error == 1e-13
    assert both.smallest_margin > 0


def test_no_control_is_a_failure(toy):
    assert not toy(when=lambda shape: False).ok
    assert not toy(telling=lambda shape: False).ok


def test_claims_and_controls_are_measured_on_their_shapes_only(toy):
    (result,) = toy(instances=10, when=lambda shape: shape == "small").rows
    assert [(c.name, c.instances) for c in result.controls] == [("shifted", 5)]
    assert not toy(instances=10, telling=lambda shape: shape == "large", when=lambda shape: shape == "small").ok


def test_what_no_shape_reaches_is_an_error():
    for reached in (theorem(), theorem(when=lambda shape: shape == "small")):
        assert registry.complete(reached) is reached
    with pytest.raises(ValueError, match="X: no shape has shifted"):
        registry.complete(theorem(telling=lambda shape: False))
    unreached = theorem()
    unreached.on(lambda shape: shape == "huge").equation("larger", jnp.abs)
    with pytest.raises(ValueError, match="X: no shape has larger"):
        registry.complete(unreached)


def test_an_exception_in_a_check_reaches_the_caller(toy):
    def explode(x):
        raise RuntimeError("inside of the check")

    with pytest.raises(RuntimeError, match="inside of the check"):
        toy(equal=explode)


def values(report):
    rows = report.to_json()["theorems"]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def test_deterministic_in_the_seed(toy):
    assert values(toy(seed=5)) == values(toy(seed=5))
    assert values(toy(seed=5)) != values(toy(seed=6))


def test_an_instance_does_not_depend_on_how_many_are_run():
    record = theorem(equal=jnp.abs, shapes=("small",))
    ((few,), (many,)) = (runner._jobs(record, instances, 0) for instances in (3, 100))
    a, b = (job.run(job.compile()[0], 0)[0]["equal"].error for job in (few, many))
    assert a.dtype == "float64"
    assert a.tolist() == b[:3].tolist()


def test_chunks_cover_the_instances_with_one_trace_a_shape(toy):
    traces, seen = [], []

    def counted(x):
        traces.append(x.dtype)
        return jnp.abs(x - x)

    total = 5 * runner.CHUNK + 3
    report = toy(instances=total, progress=seen.append, equal=counted)
    assert traces == [jnp.float64] * 2
    assert report.rows[0].instances == total
    assert report.rows[0].controls[0].instances == total
    assert [p.done for p in seen] == sorted({p.done for p in seen})
    assert seen[-1].done == seen[-1].total == total
    assert {p.theorem for p in seen} == {"X"}


def test_an_own_process_starts_with_something_of_everything_and_then_knows_what_is_left(toy):
    seen, total = [], 5 * runner.CHUNK + 3
    report = toy(instances=total, progress=seen.append, process=processes.binary())
    assert report.rows[0].instances == report.rows[0].controls[0].instances == seen[-1].done == total
    assert [p.measured for p in seen] == [False] + [True] * (len(seen) - 1)
    assert [p.done for p in seen[:3]] == [runner.CHUNK, 2 * runner.CHUNK, 3 * runner.CHUNK]
    assert min(p.left for p in seen[:-1]) > 0
    assert seen[-1].left == pytest.approx(0, abs=1e-9)
    (same,) = toy(instances=total).rows
    assert [(c.worst_error, c.worst) for c in report.rows[0].claims] == [(c.worst_error, c.worst) for c in same.claims]


def test_an_own_process_may_have_ties_and_be_too_special_for_a_control(toy):
    too_special = {"margin": lambda x: -1e-13 + 0 * x, "shifted": lambda x: 0 * x}
    report = toy(process=processes.binary(), **too_special)
    assert report.ok
    assert report.failures() == []
    assert not report.rows[0].control_rejected
    assert not toy(**too_special).ok
    for broken in ({"margin": lambda x: -1e-11 + 0 * x}, {"margin": lambda x: x * jnp.nan}, {"equal": jnp.abs}):
        assert not toy(process=processes.binary(), **broken).ok


def test_fewer_instances_than_shapes(toy):
    assert toy(instances=1).rows[0].instances == 1


def test_a_wrong_library_function_is_caught(monkeypatch):
    """The check calls the library, so breaking the library breaks the check."""
    right = accounting.final_accuracy
    monkeypatch.setattr(accounting, "final_accuracy", lambda p, a, b, rounds: right(p, a, b, rounds + 1))
    one_shape = replace(t10_accounting.THEOREM, shapes=t10_accounting.THEOREM.shapes[:1])
    monkeypatch.setitem(registry.THEOREMS, "T10", one_shape)
    report = proofs_check.check("T10", instances=2)
    assert not report.ok


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"ids": ["T99"]}, "theorem"),
        ({"ids": []}, "theorem"),
        ({"instances": 0}, "instances"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input(arguments, field):
    with pytest.raises(InputError) as error:
        proofs_check.check(**arguments)
    assert error.value.field == field
    if arguments.get("ids") == ["T99"]:
        assert error.value.received == "T99"
        assert error.value.allowed == ", ".join(registry.THEOREMS)


def test_printed_table(toy):
    def printed(report):
        stream = io.StringIO()
        report.print(Console(file=stream, width=100))
        return stream.getvalue()

    text = printed(toy())
    assert "a number [with brackets]" in text
    assert "[N]" in text
    assert "FAILED" not in text
    text = printed(toy(instances=100, equal=broken))
    assert "FAILED" in text
    assert "error 1e-09, tolerance 1e-12" in text


def test_nothing_loads_a_blas_before_the_runner_limits_its_threads():
    """Idle threads of SciPy's BLAS wait by spinning; their number is read when it is loaded."""
    code = "import sys, proofs_check, dsjax.cli.main, dsjax.study.trainings; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_workers_give_the_numbers_of_one_process():
    seen = []
    options = {"ids": ("T10", "T9", "T3"), "instances": 4, "seed": 5, "quick": True}
    found = proofs_check.check(**options, workers=2, progress=seen.append)
    assert values(found) == values(proofs_check.check(**options))
    assert [p.done for p in seen] == [4, 8, 12]
    assert {p.theorem: p.result for p in seen} == {t.id: t for t in found.rows}

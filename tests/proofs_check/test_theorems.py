"""Every claim of every theorem holds, and every control is rejected.

Here on 200 instances of a theorem's first shape, as `dsjax check --quick` has them, and on a few of others, because
each is a program to compile: all of its claims and controls occur, and over all theorems all sizes. `dsjax check` has
every shape.
"""

import dataclasses
import json

import jax
import pytest

import proofs_check
from proofs_check.registry import THEOREMS

STATUS_KEYS = {
    "id",
    "title",
    "statement",
    "provenance",
    "status",
    "instances",
    "deciding_instances",
    "worst_error",
    "smallest_margin",
    "control_rejected",
    "seconds",
    "compile_seconds",
    "instances_per_second",
    "claims",
    "controls",
    "extremes",
}

FIRST, FEW = 200, 8  # instances of the first shape, and of each other one

# Indices of the others.
OTHERS = {
    "T1": (1, 7),
    "T2": (1, 3),
    "T3": (2, 3, 8),
    "T4": (1,),
    "T5": (5,),
    "T6": (4, 6),
    "T8": (2, 3),
    "T9": (1,),
    "T10": (2,),
    "T11": (2, 5),
    "T12": (1, 3),
    "T13": (5,),
    "T14": (1, 2, 3),
    "T15": (1,),
    "T16": (1, 4, 5),
    "T17": (1,),
    "T18": (1, 5),
    "T19": (3,),
    "T21": (1, 2, 3),
    "T22": (4,),
    "T23": (7,),
    "T24": (1,),
}


@pytest.mark.parametrize("name", THEOREMS)
def test_holds_and_rejects_its_controls(name, monkeypatch):
    theorem = THEOREMS[name]
    report = proofs_check.check(name, instances=FIRST, quick=True)
    assert report.ok, report.failures()
    rows = list(report.rows)
    assert rows[0].instances == FIRST
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["version"] == 1
    assert set(data["theorems"][0]) == STATUS_KEYS
    assert data["theorems"][0]["status"] == "ok"
    assert data["theorems"][0]["control_rejected"] is True
    if others := tuple(theorem.shapes[i] for i in OTHERS.get(name, ())):
        monkeypatch.setitem(THEOREMS, name, dataclasses.replace(theorem, shapes=others))
        rows += (more := proofs_check.check(name, instances=FEW * len(others), seed=11)).rows
        assert rows[1].instances == FEW * len(others)
        assert all(c.ok for c in rows[1].claims), more.failures()
        assert all(c.rejected for c in rows[1].controls), more.failures()
    # Nothing declared is dead: each claim and each control applies to at least one of them.
    assert {c.name for row in rows for c in row.claims} == {c.name for c in theorem.claims}
    assert {c.name for row in rows for c in row.controls} == {c.name for c in theorem.controls}
    # A control must fail clearly, not by a rounding error.
    assert all(c.smallest_error > 10 * c.tolerance for row in rows for c in row.controls)
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def test_all_sizes_occur():
    shapes = [
        getattr(t.shapes[i], "base", t.shapes[i]) for name, t in THEOREMS.items() for i in (0, *OTHERS.get(name, ()))
    ]
    every = [getattr(s, "base", s) for theorem in THEOREMS.values() for s in theorem.shapes]
    for size in ("rounds", "length", "vocabulary", "history", "saturated", "network"):
        assert {getattr(s, size) for s in shapes if hasattr(s, size)} == {
            getattr(s, size) for s in every if hasattr(s, size)
        }, size


@pytest.mark.parametrize("name", THEOREMS)
def test_is_well_formed(name):
    theorem = THEOREMS[name]
    claims = {c.name for c in theorem.claims}
    assert theorem.id == name
    assert len(claims) == len(theorem.claims)
    assert len({c.name for c in theorem.controls}) == len(theorem.controls) > 0
    assert {c.claim.name for c in theorem.controls} <= claims
    assert len(set(theorem.shapes)) == len(theorem.shapes)
    assert "\n" not in theorem.about.formula
    # Tolerances are rounding, not fitting: central differences have the largest.
    assert all(0 <= c.tolerance <= 1e-7 for c in theorem.claims)

"""Every claim of every theorem holds on a few instances, and every control is rejected.

Here on the fewest shapes that have all of a theorem's claims and controls, because each is a program to compile, and on
such that all sizes occur; `dsjax check` has every shape, of which CI runs each theorem's first on 200 instances.
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

# Indices of shapes.
ENOUGH = {
    "T1": (1, 7),
    "T2": (1, 3),
    "T3": (0, 2, 3, 8),
    "T4": (1,),
    "T5": (5,),
    "T6": (0, 4, 6),
    "T7": (0,),
    "T8": (2, 3),
    "T9": (1,),
    "T10": (0, 2),
    "T11": (2, 5),
    "T12": (0, 1, 3),
    "T13": (0, 5),
    "T14": (0, 1, 2, 3),
    "T15": (1,),
    "T16": (0, 1, 4, 5),
    "T17": (1,),
    "T18": (1, 5),
    "T19": (3,),
    "T20": (0,),
    "T21": (1, 2, 3),
    "T22": (4,),
    "T24": (0, 1),
    "T23": (0, 7),
}


@pytest.mark.parametrize("name", THEOREMS)
def test_holds_and_rejects_its_controls(name, monkeypatch):
    theorem = THEOREMS[name]
    shapes = tuple(theorem.shapes[i] for i in ENOUGH[name])
    monkeypatch.setitem(THEOREMS, name, dataclasses.replace(theorem, shapes=shapes))
    report = proofs_check.check(name, instances=8 * len(shapes), seed=11)
    (result,) = report.rows
    assert report.ok, report.failures()
    assert result.instances == 8 * len(shapes)
    # Nothing declared is dead: each claim and each control applies to at least one of them.
    assert [c.name for c in result.claims] == [c.name for c in theorem.claims]
    assert [c.name for c in result.controls] == [c.name for c in theorem.controls]
    # A control must fail clearly, not by a rounding error.
    assert all(c.smallest_error > 10 * c.tolerance for c in result.controls)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["version"] == 1
    assert set(data["theorems"][0]) == STATUS_KEYS
    assert data["theorems"][0]["status"] == "ok"
    assert data["theorems"][0]["control_rejected"] is True
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def test_all_sizes_occur():
    shapes = [getattr(s, "base", s) for name, at in ENOUGH.items() for s in (THEOREMS[name].shapes[i] for i in at)]
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

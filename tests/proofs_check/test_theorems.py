"""Every theorem holds on a few instances of each shape, and every control is rejected."""

import json
import re
from pathlib import Path

import jax
import pytest

import proofs_check
from proofs_check.registry import THEOREMS

DOC = (Path(__file__).parents[2] / "docs" / "theory.md").read_text()
STATUS_KEYS = {
    "id",
    "title",
    "statement",
    "provenance",
    "status",
    "instances",
    "worst_error",
    "smallest_margin",
    "control_rejected",
    "seconds",
    "compile_seconds",
    "instances_per_second",
    "claims",
    "controls",
}


@pytest.mark.parametrize("name", THEOREMS)
def test_holds_and_rejects_its_controls(name):
    theorem = THEOREMS[name]
    report = proofs_check.run([name], instances=3 * len(theorem.shapes), seed=11)
    (result,) = report.theorems
    assert report.ok, report.failures()
    assert result.instances == 3 * len(theorem.shapes)
    # Nothing declared is dead: each claim and each control applies to at least one shape.
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


@pytest.mark.parametrize("name", THEOREMS)
def test_is_well_formed(name):
    theorem = THEOREMS[name]
    claims = {c.name for c in theorem.claims}
    assert theorem.id == name
    assert len(claims) == len(theorem.claims)
    assert len({c.name for c in theorem.controls}) == len(theorem.controls) > 0
    assert {c.claim for c in theorem.controls} <= claims
    assert len(set(theorem.shapes)) == len(theorem.shapes)
    assert "\n" not in theorem.statement
    # Tolerances are rounding, not fitting: central differences have the largest.
    assert all(0 <= c.tolerance <= 1e-7 for c in theorem.claims)


@pytest.mark.parametrize("name", THEOREMS)
def test_is_documented_with_the_same_tag(name):
    theorem = THEOREMS[name]
    section = re.search(rf"^## {name} (\[\S+\]) (.+?)$(.*?)(?=^## )", DOC, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert section[1] == theorem.provenance
    assert section[2] == theorem.title
    assert "Proof." in section[3]
    assert theorem.check.__module__.rsplit(".", 1)[-1] + ".py" in section[3]

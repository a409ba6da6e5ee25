"""The length asymmetry of the KL: closed forms, and a variant that must be rejected."""

import json

import pytest
from matplotlib.figure import Figure

from proofs_check.theorems.t11_soft_optimum import boundary as soft


@pytest.fixture(scope="module")
def data():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft, "LENGTHS", (1, 2, 3))
        patch.setattr(soft, "ENERGY_LENGTHS", (1, 2))
        return json.loads(json.dumps(soft.measure(), allow_nan=False))


def test_closed_forms(data):
    assert data["worst_error"] < 1e-12
    assert [len(row["closed"]) for row in data["rows"]] == [5, 5, 2]


def test_the_optimum_does_not_know_the_length(data):
    for name in ("kl, optimum", "trajectory, optimum"):
        first, *others = (row["measured"][name] for row in data["rows"] if name in row["measured"])
        assert all(other == pytest.approx(first, rel=1e-12) for other in others)
    # Control: the same claim at a given drift per token.
    for name, growth in (("kl, given drift", 2.0), ("own-token, given drift", 2.0)):
        one, two = (row["measured"][name] for row in data["rows"][:2])
        assert two[0] == pytest.approx(growth * one[0], rel=1e-12)
        assert two[1] == pytest.approx(one[1], rel=1e-12)


def test_optimum_by_hand(data):
    """At the optimum the gradient of the KL is that of the return over beta: T3's sums, and nothing else."""
    law = soft.soft_law()
    assert law.last / (1 - law.last) == pytest.approx(soft.RIGHT / (1 - soft.RIGHT) * 2.718281828459045**2, rel=1e-12)
    assert law.first > soft.RIGHT
    assert law.stops[0] < soft.STOPS[0] < soft.STOPS[1] < law.stops[1]


def test_draw(data):
    fig = Figure()
    soft.draw(data, fig)
    assert [ax.get_ylabel() for ax in fig.axes] == ["KL to the reference (nats)", "decision share (fraction)"]

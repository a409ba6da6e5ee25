"""The crossing length: closed form against the library, with variants that must be rejected."""

import pytest

from proofs_check.theorems.t14_signal_noise import boundary as noise

POINTS = [(0.4, 0.6, 0.4), (0.8, 0.9, 0.3)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("estimator", noise.ESTIMATORS[:3])
def test_crossing_is_where_the_closed_form_says(estimator):
    for point, found in zip(POINTS, noise.measured_crossings(POINTS, estimator), strict=True):
        assert found == pytest.approx(noise.crossing(point, estimator), rel=1e-11)
        # Controls: the crossing of another baseline.
        for other in noise.ESTIMATORS:
            if other != estimator:
                assert found != pytest.approx(noise.crossing(point, other), rel=1e-4)


@pytest.mark.usefixtures("x64")
def test_the_decider_is_louder_from_the_crossing_on():
    point = POINTS[0]
    crossing = noise.crossing(point)
    assert 5 < crossing < 6
    for length in (5, 6):
        found = noise.measured_ratios(point, length)
        assert (found["decision"] > found["sample"]) == (length > crossing)
        # A critic that knows what each token did to the return keeps pi_sample the louder one.
        assert found["sample, causal"] > found["decision"]


def test_measure_and_draw(measured_and_drawn):
    smaller = {"LENGTHS": (1, 2), "READ_ALL": 2, "DECISIVENESS": (0.5, 3.0), "ACCURACIES": (0.2, 0.7)}
    data, axes = measured_and_drawn(noise, **smaller)
    assert data["worst_error"] < 1e-11
    assert [row["length"] for row in data["ratios"]] == [1, 2]
    first, second = data["ratios"]
    assert second["sample"] < first["sample"]
    assert second["decision"] == pytest.approx(first["decision"], rel=1e-12)
    assert second["decision, reads all"] == pytest.approx(first["decision"] / 2, rel=1e-12)
    assert second["sample, causal"] == pytest.approx(first["sample, causal"], rel=1e-12)
    assert len(axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)

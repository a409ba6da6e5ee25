"""The regret map: closed forms against exact returns, and formulas that must be rejected."""

import numpy as np
import pytest

from proofs_check.theorems.t16_thresholds import boundary as regrets


@pytest.mark.usefixtures("x64")
def test_regret_is_the_difference_of_exact_returns():
    q, V = np.asarray([0.2, 0.7, 0.4, 0.6, 0.5]), np.asarray([0.6, 0.3, 0.4, 0.9, 0.1])
    found = regrets.measured(q, V)
    np.testing.assert_allclose(found["imitator"], [0.08, 0.12, 0.0, 0.18, 0.2], atol=1e-14)
    np.testing.assert_allclose(found["greedy"], [0.0, 0.0, 0.0, 0.3, 0.4], atol=1e-14)
    # Controls: one formula on both sides of the threshold.
    for wrong in (q * (V - q), (1 - q) * (q - V)):
        assert np.abs(found["imitator"] - wrong).max() > 0.01


def test_measure_and_draw(measured_and_drawn):
    data, axes = measured_and_drawn(regrets, GRID=(0.1, 0.3, 0.5, 0.6, 0.9))
    assert data["worst_error"] < 1e-14
    assert data["zero_only_where_q_is_V"]
    assert [ax.get_title() for ax in axes[:2]] == list(regrets.TITLES.values())

"""The phase portrait: velocities and flows of the library's gradients against the closed forms."""

import numpy as np

from proofs_check.theorems.t18_threshold_shift import boundary as portrait


def test_measure_and_draw(measured_and_drawn):
    data, axes = measured_and_drawn(
        portrait, STARTS=((0.2, 0.3, 0.3), (0.5, 0.2, 0.8)), LENGTHS=(1, 3), STEPS=32, SHOWN=8, TIME=1.0
    )
    assert data["worst_error"] < 1e-13
    # RK4 errs by N (beta h)^5/120 x |C - C_rest|: 32 (0.2/32)^5/120 x 5 = 1e-11.
    assert data["separation_error"] < 2e-11
    assert data["unit_rate_error"] < 1e-13
    assert data["first_integral_drift"] < 1e-6
    short, long = data["with_kl"]
    apart = np.asarray([short["apart"], long["apart"]])
    np.testing.assert_allclose(apart[0], apart[1], atol=2e-11)
    # Controls: without the pull of the reference it would be t; and what length does move, the mean, is seen to move.
    assert apart[0][-1] < data["times"][-1] - 0.05
    assert long["mean"][-1] > short["mean"][-1] + 0.1
    assert all(path[-1][0] > path[0][0] for path in data["paths"])  # p rises
    assert [ax.get_xlabel() for ax in axes] == ["b, P(STOP | wrong)", "p, P(right)", "time t"]

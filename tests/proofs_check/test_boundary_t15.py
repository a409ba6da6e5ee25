"""Who is clipped first: closed form against the library, with variants that must be rejected."""

import math

import pytest

from proofs_check.theorems.t15_clipping import boundary as clipping


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("vocabulary", [2, 8])
def test_boundary_is_where_the_closed_form_says(vocabulary):
    for row in clipping.measured_boundary(vocabulary, (0.1, 0.4)):
        x_s, sign = row["x_s"], row["sign"]
        if sign > 0 and x_s < 1 - 1 / 1.2:
            assert row["measured"] is None
            assert row["closed"] is None
            continue
        assert row["measured"] == pytest.approx(row["closed"], rel=1e-11)
        # Controls: the other number of symbols, and the other sign.
        assert row["measured"] != pytest.approx(clipping.boundary(x_s, sign, 10 - vocabulary), rel=1e-3)
        if vocabulary == 2:
            assert row["measured"] == pytest.approx(x_s, rel=1e-11)
        elif x_s > 0.2:
            assert row["measured"] != pytest.approx(clipping.boundary(x_s, -sign, vocabulary), rel=1e-3)
            # The provable limits: x_s / sqrt(2) for A > 0, x_s / 2 for A < 0.
            assert x_s / (math.sqrt(2) if sign > 0 else 2) < row["measured"] < x_s


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sequence_ratio_waits_for_the_other_tokens(sign):
    length = 2
    found, stated = clipping.measured_steps(length, sign), clipping.stated_steps(length, sign)
    assert found == pytest.approx(stated, rel=1e-11)
    # Control: diluted by L instead of L + 1.
    wrong = clipping.least_step(clipping.UNDECIDED, sign, 2, copies=length)
    assert found["sequence, decision alone"] != pytest.approx(wrong, rel=1e-3)


def test_from_above_a_decision_alone_may_never_move_a_sequence_enough():
    assert math.isinf(clipping.stated_steps(3, 1.0)["sequence, decision alone"])  # (1 + eps)^4 > 1/pi = 2
    assert math.isfinite(clipping.stated_steps(2, 1.0)["sequence, decision alone"])


def test_measure_and_draw(measured_and_drawn):
    data, axes = measured_and_drawn(clipping, VOCABULARIES=(8,), TOKENS=(0.1, 0.5), LENGTHS=(1, 2))
    assert data["worst_error"] < 1e-11
    assert [row["measured"] is None for row in data["rows"]] == [True, False, False, False]
    assert len(axes) == 3
    assert all(ax.get_xlabel() for ax in axes)

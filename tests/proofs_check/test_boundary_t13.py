"""The boundary of length division: closed form, measured thresholds, and variants that must be rejected."""

from fractions import Fraction

import pytest

from proofs_check.theorems.t13_length_normalised import boundary as graded


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("length", "rounds"), [(1, 2), (3, 2), (1, 4)])
def test_threshold_is_where_the_closed_form_says(length, rounds):
    V, b, stop = 0.6, 0.2, 0.3
    found = graded.measured_threshold(V, b, length, rounds, stop)
    assert found is not None
    assert found == pytest.approx(graded.closed_form(V, b, length, rounds, stop), abs=1e-12)
    # Controls: the threshold of R, a forced stop that counts as a token, and the baseline left out.
    n_T = rounds * (length + 1)
    with_forced = found - (1 - stop) ** (rounds - 2) * (V - b) * (length + 1) * (1 / (n_T - 1) - 1 / n_T)
    wrong = (V, with_forced, graded.closed_form(V, 0.0, length, rounds, stop))
    assert all(abs(found - w) > 1e-3 for w in wrong)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_two_rounds_by_hand(length):
    """n_1 = L + 1 and n_2 = 2 L + 1, whatever the decider: threshold ((L+1) V + L b)/(2 L + 1)."""
    V, b, L = Fraction(3, 5), Fraction(1, 5), length
    by_hand = ((L + 1) * V + L * b) / (2 * L + 1)
    for stop in (0.1, 0.9):
        assert graded.closed_form(float(V), float(b), length, 2, stop) == pytest.approx(float(by_hand), abs=1e-15)


def test_the_threshold_tends_to_the_baseline_as_attempts_grow():
    thresholds = [graded.closed_form(0.6, 0.2, 1, T, 0.01) for T in (2, 10, 100, 1000)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[-1] == pytest.approx(0.2, abs=0.03)


@pytest.mark.usefixtures("x64")
def test_one_instance_on_each_side():
    for (value, grade), differ in ((graded.INSIDE, True), (graded.OUTSIDE, False)):
        push = graded.push(grade, value, graded.MAP_BASELINE, graded.MAP_LENGTH)
        assert (push.divided * push.reward < 0) == differ
        assert min(abs(push.divided), abs(push.reward)) > 1e-5


@pytest.mark.usefixtures("x64")
def test_no_threshold_is_reported_where_there_is_none(monkeypatch):
    monkeypatch.setattr(graded, "push", lambda grade, *_: graded.Push(1.0 + grade**2, 0.0))
    assert graded.measured_threshold(0.6, 0.0, 1) is None


def test_measure_and_draw(measured_and_drawn):
    data, axes = measured_and_drawn(graded, LENGTHS=(1, 2), ROUNDS=(2, 3), MAP_LENGTH=2)
    assert data["worst_error"] < 1e-12
    assert data["lattice_points_on_the_wrong_side"] == 0
    assert {x["divided"] * x["reward"] < 0 for x in data["lattice"]} == {True, False}
    labels = ["V, value of going on (reward)", "answer length L (tokens)", "rounds T"]
    assert [ax.get_xlabel() for ax in axes] == labels

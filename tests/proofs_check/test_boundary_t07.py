"""The boundary of the KL tax: closed form, measured flips, and variants that must be rejected."""

import pytest

from proofs_check.theorems.t07_kl_tax import boundary as tax


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("length", "rounds"), [(1, 2), (3, 2), (2, 3)])
def test_flip_is_where_the_closed_form_says(length, rounds):
    reference = tax.REFERENCES[0]
    closed = tax.closed_form(length, reference, rounds)
    for support in (tax.every_answer(length, rounds), tax.answer_classes(length, rounds)):
        push = tax.push_on_stop(support)
        flip = tax.measured_flip(push, reference)
        assert flip == pytest.approx(closed, rel=1e-12)
        # Control: own-token KL, claimed to turn there, does not.
        assert push(2 * closed, reference)[0] > 0 > push(2 * closed, reference)[1]
        # Controls: a K that does not grow with L, and a K that forgets the later rounds.
        if length > 1:
            assert flip != pytest.approx(tax.closed_form(1, reference, rounds), rel=1e-3)
        if rounds > 2:
            assert flip != pytest.approx(tax.closed_form(length, reference, 2), rel=1e-3)


@pytest.mark.usefixtures("x64")
def test_no_flip_is_reported_where_there_is_none():
    assert tax.measured_flip(lambda beta, _: (1.0 + beta, -1.0), tax.REFERENCES[0]) is None


def test_measure_and_draw(measured_and_drawn):
    data, axes = measured_and_drawn(tax, LENGTHS=(1, 4), ENUMERATED=(1,))
    assert data["worst_error"] < 1e-12
    assert data["classes_against_every_answer"] < 1e-12
    assert len(data["lattice"]) == 2 * len(tax.BETAS)
    assert all(row["own_token_kl"] < 0 for row in data["lattice"])
    assert {row["trajectory_kl"] > 0 for row in data["lattice"] if row["length"] == 4} == {True, False}
    assert [ax.get_xlabel() for ax in axes] == ["answer length L (tokens)"] * 2
    assert axes[0].get_ylabel() == "beta (reward per nat)"

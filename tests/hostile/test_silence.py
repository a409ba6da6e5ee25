"""What can be read in two ways: the output and the JSON say how it was read."""

from __future__ import annotations

import numpy as np
import pytest

from dsjax.rollouts import attribute_rollouts

SLOTS = np.array([[1, 1, 2, 0], [1, 2, 1, 2]])  # of an answer, of a decision, of neither
GIVEN = {
    "logp": np.full((2, 4), -1.0),
    "sample_mask": SLOTS == 1,
    "decision_mask": SLOTS == 2,
    "reward": np.array([0.0, 1.0]),
    "decision_choices": np.array(2),
}
OPTIONAL = {
    "weight": (np.ones(2), "every trajectory with the same weight"),
    "group": (np.zeros(2, int), "every trajectory as a group of its own"),
    "decision": (np.array([[0, 0, 0, 0], [0, 1, 0, 0]]), "as STOP, others as RESAMPLE"),
}


def said(**arrays) -> str:
    return " ".join(attribute_rollouts("sft", resamples=2, **{**GIVEN, **arrays}).notes)


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_not_given_is_said_and_what_is_given_is_not(name):
    array, words = OPTIONAL[name]
    assert words in said()
    assert words not in said(**{name: array})


def test_what_is_always_said():
    for words in ("log-probs as natural logarithms", "1 slots in no mask as prompt or padding", "from 2 choices"):
        assert words in said()
    assert "from 500 choices" in said(decision_choices=np.array(500))
    assert "that is not cut off" in said(truncated=np.array([False, True]))
    none = said(sample_mask=SLOTS > 0, decision_mask=SLOTS > 2)
    assert "choices" not in none

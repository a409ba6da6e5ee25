"""T16 and T22 by hand: regrets at one visit, a table of them, and the three terms of one real swap."""

import jax
import numpy as np
import pytest

from dsjax.evaluation import regret
from dsjax.evaluation.accounting import three_terms


@pytest.mark.parametrize(
    ("q", "V", "imitation", "greedy"),
    [
        (0.25, 0.5, 0.0625, 0.0),  # q (V - q)
        (0.75, 0.5, 0.0625, 0.0),  # (1 - q)(q - V)
        (0.6, 0.8, 0.12, 0.2),  # greedy stops, though going on is worth more
        (0.4, 0.2, 0.12, 0.2),  # greedy goes on, though stopping is worth more
        (0.0, 0.5, 0.0, 0.0),
        (1.0, 0.5, 0.0, 0.0),
        (0.5, 0.5, 0.0, 0.0),
        (0.0, -0.1, 0.1, 0.1),  # a wrong answer that is not worth another try: imitation tries again
    ],
)
def test_regret_at_one_visit(q, V, imitation, greedy):
    q, V = np.array([q]), np.array([V])
    assert regret.of_imitation(q, V)[0] == pytest.approx(imitation, abs=1e-15)
    assert regret.of_greedy(q, V)[0] == pytest.approx(greedy, abs=1e-15)
    best, imitator = np.maximum(q, V), q**2 + (1 - q) * V
    assert regret.of_imitation(q, V) == pytest.approx(best - imitator, abs=1e-15)


def test_a_table_adds_visits_up():
    q, V, visits = np.array([0.25, 0.75, 1.0]), np.array([0.5, 0.5, 0.3]), np.array([1.0, 0.5, 2.0])
    assert regret.from_table(q, V, visits) == pytest.approx(0.0625 * 1.5, abs=1e-15)


def test_three_terms_of_a_sampler_that_only_moves_between_wrong_answers():
    """P(right) stays at 1/2; wrong answers that the decider lets pass become rarer: all of it is the sampler's mix."""
    a = np.full((2, 2), 0.5)
    b = np.array([[0.74, 0.74], [0.26, 0.26]])  # (.4 x .9 + .1 x .1)/.5 and (.1 x .9 + .4 x .1)/.5
    with jax.enable_x64(True):
        terms = three_terms(np.array([0.5, 0.5]), a, b)
    assert terms.sampler == pytest.approx(0, abs=1e-15)
    assert terms.mix == pytest.approx(np.log(0.74 / 0.26), abs=1e-12)
    assert terms.mix == pytest.approx(1.046, abs=1e-3)
    assert terms.decider == pytest.approx(0, abs=1e-15)

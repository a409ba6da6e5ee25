"""T15 where a clip is by distance of laws and not by ratio: what DPPO drops of a decision, and when."""

from __future__ import annotations

import numpy as np
import pytest

from dsjax.rollouts import attribute_rollouts

P = np.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])  # P(STOP) before
MOVE = np.array([0.01, 0.03, 0.1, 0.19, 0.21, 0.4])  # by which it rises
OLD, NEW = (x.ravel() for x in np.broadcast_arrays(P[:, None], P[:, None] + MOVE[None]))
OLD, NEW = OLD[NEW < 1], NEW[NEW < 1]
BOUND = {"dppo_tv": 0.2, "dppo_kl": 0.05, "grpo": 0.2}


def dropped(objective: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether the coefficient is 0 of STOP drawn with A = 1, and of RESAMPLE drawn with A = -1: both push STOP up."""
    logp = np.log(np.r_[NEW, 1 - NEW])[:, None]
    old = np.log(np.r_[OLD, 1 - OLD])[:, None]
    found = attribute_rollouts(
        objective,
        {"clip": BOUND[objective], "clip_high": BOUND[objective]},
        resamples=1,
        logp=logp,
        old_logp=old,
        sample_mask=np.zeros_like(logp, bool),
        decision_mask=np.ones_like(logp, bool),
        decision=np.repeat([0, 1], len(NEW))[:, None],
        advantage=np.repeat([1.0, -1.0], len(NEW)),
        decision_choices=2,
    )
    stop, resample = (found.coefficients[:, 0] == 0).reshape(2, -1)
    return stop, resample


@pytest.mark.parametrize("objective", ["dppo_tv", "dppo_kl"])
def test_a_decision_is_dropped_with_its_law_whichever_branch_was_drawn(objective):
    stop, resample = dropped(objective)
    np.testing.assert_array_equal(stop, resample)
    kl = OLD * np.log(OLD / NEW) + (1 - OLD) * np.log((1 - OLD) / (1 - NEW))
    distance = NEW - OLD if objective == "dppo_tv" else kl
    np.testing.assert_array_equal(stop, distance > BOUND[objective])
    assert 0 < stop.sum() < len(stop)


def test_the_ratio_drops_the_rare_branch_first():
    """The control: GRPO drops STOP from NEW/OLD > 1.2 and RESAMPLE from (1 - NEW)/(1 - OLD) < 0.8."""
    stop, resample = dropped("grpo")
    np.testing.assert_array_equal(stop, NEW / OLD > 1.2)
    np.testing.assert_array_equal(resample, (1 - NEW) / (1 - OLD) < 0.8)
    assert (stop & ~resample)[OLD < 0.5].any()
    assert (resample & ~stop)[OLD > 0.5].any()


def step(pi: np.ndarray, g: float) -> np.ndarray:
    """The law after a gradient step g (e_0 - pi) on the draw of symbol 0."""
    z = np.log(pi) + g * (np.eye(len(pi))[0] - pi)
    return np.exp(z) / np.exp(z).sum()


def test_at_equal_probability_a_decision_is_still_dropped_first():
    """|pi - pi_old| is increasing in the ratio at one pi: T15's range between g/2 and g stays. A token hides more.

    |pi - pi_old| of the drawn symbol is the distance of the whole law for a decision, and less for some tokens.
    """
    rng, hidden = np.random.default_rng(0), 0.0
    for _ in range(300):
        pi, g = rng.dirichlet(np.full(6, 0.4)), rng.uniform(-3, 3)
        two = np.array([pi[0], 1 - pi[0]])
        token, decision, half = (x - y for x, y in ((step(pi, g), pi), (step(two, g), two), (step(two, g / 2), two)))
        assert abs(half[0]) - 1e-15 <= abs(token[0]) <= abs(decision[0]) + 1e-15
        whole = 0.5 * abs(token).sum()
        assert abs(token[0]) <= whole + 1e-15
        hidden = max(hidden, whole - abs(token[0]))
        assert abs(0.5 * abs(decision).sum() - abs(decision[0])) < 1e-15
    assert hidden > 0.05


def test_across_probabilities_the_order_can_turn():
    """A decision of 5 % moves its ratio further than a token of 40 %, and its probability less: 2 g x^2 (1 - x)."""
    (p_d, p_s), g = (np.array([0.05, 0.95]), np.array([0.4, 0.6])), 0.3
    d, s = step(p_d, g)[0], step(p_s, g)[0]
    assert (d / 0.05, s / 0.4) == pytest.approx((1.703, 1.222), abs=1e-3)
    assert (d - 0.05, s - 0.4) == pytest.approx((0.0351, 0.0886), abs=1e-4)
    x = np.linspace(0.01, 0.99, 99)
    small = np.array([step(np.array([1 - a, a]), 1e-4)[0] - (1 - a) for a in x]) / 1e-4
    np.testing.assert_allclose(small, 2 * x**2 * (1 - x), rtol=1e-3)
    assert x[small.argmax()] == pytest.approx(2 / 3, abs=0.01)

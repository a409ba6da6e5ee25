"""Chains and guesses: what sampler and decider bring to reward's gain, against all episodes written out."""

from __future__ import annotations

import itertools

import pytest

from dsjax.evaluation import mixture


def accuracy(m: int, begins: float, goes_on: float) -> float:
    """Two symbols: a first answer is the prefix with probability `begins`, else one of the others; RESAMPLE there."""
    total = 0.0
    for x, y, first in itertools.product(range(m), repeat=3):
        weight = (begins if first == x else (1 - begins) / (m - 1)) / m**2
        kept = float(first == (x + y) % m)
        total += weight * (goes_on + (1 - goes_on) * kept if first == x else kept)
    return total


@pytest.mark.parametrize(("m", "p"), [(2, 0.25), (3, 0.25), (10, 0.05)])
def test_parts_of_rewards_gain_are_those_of_real_swaps(m, p):
    s = 1 / m
    begins, goes_on = mixture.accuracy(p, s), 1 - mixture.stop_at_prefix(p, s)
    base, sampler, decider, both = (
        accuracy(m, b, g) for b, g in ((begins, goes_on), (1, goes_on), (begins, 1), (1, 1))
    )
    assert base == pytest.approx(mixture.accuracy(p, s), abs=1e-14)
    assert both == pytest.approx(1, abs=1e-14)
    found = mixture.reward_parts(p, s)
    assert found.sampler == pytest.approx((sampler - base + both - decider) / 2, abs=1e-14)
    assert found.decider == pytest.approx((decider - base + both - sampler) / 2, abs=1e-14)
    assert mixture.chain_share(base, s) == pytest.approx(p, abs=1e-14)

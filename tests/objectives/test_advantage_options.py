"""Standard deviations by name, and the advantages of GPG, PSR/NSR and GDPO: samples in NumPy, laws written out."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.objectives.advantages import advantage
from tests.objectives.reference import quick_jit
from tests.objectives.test_advantages import GROUPS, LAWS, REWARDS, batch, eager, law_batch

TIGHT = 1e-13  # a few dozen operations on numbers of order 1, gammaln and exp included


def in_groups(f) -> np.ndarray:
    """f(own return, returns of the group) of every row."""
    return np.array([f(r, REWARDS[g == GROUPS]) for r, g in zip(REWARDS, GROUPS, strict=True)])


@pytest.mark.parametrize(
    ("options", "std"),
    [
        ({"ddof": 1}, lambda group: group.std(ddof=1)),
        ({"std_floor": 0.4}, lambda group: max(group.std(), 0.4)),
        ({"std_of": "batch"}, lambda group: REWARDS.std()),
        ({"std_of": "batch", "ddof": 1, "std_floor": 0.2}, lambda group: REWARDS.std(ddof=1)),
    ],
)
def test_standard_deviations_of_samples(x64, options, std):
    A = eager("group_normalised", batch(REWARDS, GROUPS), epsilon=1e-3, **options)
    expected = in_groups(lambda r, group: (r - group.mean()) / (std(group) + 1e-3))
    np.testing.assert_allclose(A, expected, rtol=0, atol=TIGHT)
    plain = eager("group_normalised", batch(REWARDS, GROUPS), epsilon=1e-3)
    assert np.abs(A - plain).max() > 1e-2


def test_the_batch_is_that_of_the_rows_with_weight(x64):
    weights = np.where(np.arange(7) == 3, 0.0, 1 / 6)
    A = eager("group_normalised", batch(REWARDS, GROUPS, weights), std_of="batch", ddof=1, epsilon=0.0)
    kept = np.delete(REWARDS, 3)
    np.testing.assert_allclose(A, in_groups(lambda r, group: r - group.mean()) / kept.std(ddof=1), atol=TIGHT)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7])
def test_equal_returns_are_exactly_zero(x64, value):
    traj = batch([value] * 7, [0] * 4 + [1] * 3)
    for name, options in (
        ("group_normalised", {"ddof": 1, "std_floor": 0.1}),
        ("group_normalised", {"std_of": "batch", "ddof": 1}),
        ("gdpo", {"ddof": 1}),
        ("gpg", {}),
    ):
        np.testing.assert_array_equal(eager(name, traj, **options), 0.0)


def expected(size: int, law: str, f) -> list[float]:
    """E[f(own return, returns of the group)] over the other members, every way to draw them one by one."""
    traj, support, laws = law_batch(law)
    out = []
    for r, g in zip(np.asarray(traj.reward), np.asarray(traj.group), strict=True):
        draws = itertools.product(range(len(support)), repeat=size - 1)
        out.append(sum(np.prod(laws[g][list(d)]) * f(r, np.array([r, *np.take(support, d)])) for d in draws))
    return out


@pytest.mark.parametrize("law", LAWS)
def test_laws_match_every_group_written_out(x64, law):
    size = 3
    traj, support, laws = law_batch(law)

    def over_n_minus_1(r, group):
        return 0.0 if group.max() == group.min() else (r - group.mean()) / (max(group.std(ddof=1), 0.45) + 1e-3)

    options = {"group_size": size, "reward_support": support, "epsilon": 1e-3}

    @quick_jit
    def asked(traj):
        floored = advantage("group_normalised", traj.reward, traj, ddof=1, std_floor=0.45, **options)
        by_batch = advantage("group_normalised", traj.reward, traj, std_of="batch", **options)
        return floored, by_batch, advantage("gpg", traj.reward, traj, group_size=size)

    A, by_batch, gpg = asked(traj)
    np.testing.assert_allclose(A, expected(size, law, over_n_minus_1), rtol=0, atol=TIGHT)

    # Of a large batch: the standard deviation and the part of groups that differ are those of the law.
    w, R, g = (np.asarray(x) for x in (traj.weight, traj.reward, traj.group))
    std = np.sqrt(w @ R**2 - (w @ R) ** 2)
    centred = np.array(expected(size, law, lambda r, group: r - group.mean()))
    np.testing.assert_allclose(by_batch, centred / (std + 1e-3), rtol=0, atol=TIGHT)
    differ = [1 - (laws[q] ** size).sum() for q in g]
    alpha = 1 / (w @ differ) if w @ differ > 1e-12 else 0.0
    np.testing.assert_allclose(gpg, alpha * centred, rtol=0, atol=TIGHT)


def test_gpg_counts_the_rows_of_groups_that_differ(x64):
    traj = batch([0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], [0, 0, 0, 1, 1, 2, 2])
    A = eager("gpg", traj)
    np.testing.assert_allclose(A, [*np.array([-2, 1, 1]) / 3 * 7 / 3, 0, 0, 0, 0], rtol=0, atol=TIGHT)
    # Padding has no weight, and its group differs.
    padded = batch([0.0, 1.0, 1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1, 2, 2], [0.25] * 4 + [0.0] * 2)
    np.testing.assert_allclose(eager("gpg", padded)[:4], [-1.0, 1.0, 0.0, 0.0], rtol=0, atol=TIGHT)


def test_positive_and_negative_samples(x64):
    traj = batch(REWARDS, GROUPS)
    np.testing.assert_array_equal(eager("psr_nsr", traj), np.where(REWARDS >= 1, 0.1, -1.0))
    A = eager("psr_nsr", traj, positive_weight=0.5, threshold=0.9)
    np.testing.assert_array_equal(A, np.where(REWARDS >= 0.9, 0.5, -1.0))


def test_gdpo_normalises_every_reward_on_its_own(x64):
    second = np.array([3.0, 3.0, 9.0, 0.0, 3.0, 6.0, 3.0])
    rewards, weights = np.stack([REWARDS, second], 1), (1.0, 0.5)
    total = np.zeros(7)
    for R, w in zip(rewards.T, weights, strict=True):
        for g in (0, 1):
            here = g == GROUPS
            total[here] += w * (R[here] - R[here].mean()) / (R[here].std(ddof=1) + 1e-4)
    whole = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    traj = batch(REWARDS, GROUPS)
    A = advantage("gdpo", jnp.asarray(rewards), traj, ddof=1, reward_weights=weights)
    np.testing.assert_allclose(A, whole, rtol=0, atol=TIGHT)
    # A reward on another scale changes nothing but for epsilon; the sum of both, as one reward, is drowned by it.
    scaled = jnp.asarray(rewards * np.array([1.0, 100.0]))
    again = advantage("gdpo", scaled, traj, ddof=1, reward_weights=weights)
    np.testing.assert_allclose(again, A, rtol=0, atol=1e-3)
    assert np.abs(np.asarray(advantage("gdpo", jnp.sum(scaled, 1), traj, ddof=1)) - np.asarray(A)).max() > 0.1
    with pytest.raises(InputError, match="reward_weights"):
        advantage("gdpo", jnp.asarray(rewards), traj, reward_weights=(1.0,))
    with pytest.raises(InputError, match="exact law"):
        eager("gdpo", law_batch("binary")[0])

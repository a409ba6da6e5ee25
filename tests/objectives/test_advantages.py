"""Advantages: samples against NumPy, exact laws against every group written out one by one."""

from __future__ import annotations

import functools
import itertools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsjax.attribution import coefficients
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.objectives.advantages import ADVANTAGES, advantage
from dsjax.trajectories import Trajectories
from tests import oracle
from tests.cases import SMALL, TIGHT, enumerated, from_rounds, make_case
from tests.objectives.reference import quick_jit


def batch(rewards, groups, weights=None, *, exact: bool = False, dtype: type = np.float64) -> Trajectories:
    """One token a trajectory: advantages see returns, groups and weights only."""
    rewards = np.asarray(rewards, dtype)
    B = len(rewards)
    weights = np.full(B, 1 / B) if weights is None else np.asarray(weights)
    return from_rounds(
        prompt=np.zeros((B, 1), np.int32),
        answers=np.zeros((B, 1, 1), np.int32),
        stop_round=np.zeros(B, np.int32),
        horizon=2,
        reward=jnp.asarray(rewards),
        weight=jnp.asarray(weights.astype(dtype)),
        group=np.asarray(groups, np.int32),
        num_groups=int(max(groups)) + 1,
        exact=exact,
    )


@functools.partial(quick_jit, static_argnames=("name", "options"))
def compiled(name, traj, options, arrays):
    return advantage(name, traj.reward, traj, **dict(options), **arrays)


def of(name: str, traj: Trajectories, **options) -> np.ndarray:
    """One compilation for a group size and shape; support and epsilon are arrays."""
    static = tuple((k, v) for k, v in options.items() if k == "group_size")
    arrays = {k: np.asarray(v) for k, v in options.items() if k != "group_size"}
    return np.asarray(compiled(name, traj, static, arrays))


def eager(name: str, traj: Trajectories, **options) -> np.ndarray:
    """With values at hand, so that they are checked."""
    return np.asarray(advantage(name, traj.reward, traj, **options))


REWARDS = np.array([0.0, 1.0, 1.0, 0.25, 0.5, 0.9, 0.0])
GROUPS = np.array([0, 1, 0, 1, 1, 0, 1])  # interleaved, 3 and 4 members
DIVIDED = ("group_normalised", "maxrl")  # they have an epsilon, and a support on an exact law


def one_by_one(name: str, epsilon: float = 0.0) -> list[float]:
    out = []
    for i, (r, g) in enumerate(zip(REWARDS, GROUPS, strict=True)):
        others = [REWARDS[j] for j in range(len(REWARDS)) if GROUPS[j] == g and j != i]
        out.append(oracle.group_advantage(name, float(r), others, epsilon))
    return out


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_normalised", "maxrl"])
def test_sampled_groups_match_numpy(x64, name):
    options = {"epsilon": 1e-3} if name in DIVIDED else {}
    got = of(name, batch(REWARDS, GROUPS), **options)
    # A dozen operations on numbers of order 1: a few tens of eps.
    np.testing.assert_allclose(got, one_by_one(name, **options), rtol=0, atol=1e-14)
    # Control: the sample standard deviation (n - 1) and a baseline over the whole batch are something else.
    wrong = REWARDS - REWARDS.mean()
    assert np.abs(got - wrong).max() > 1e-3


def test_none_and_batch_mean(x64):
    traj = batch(REWARDS, GROUPS, weights=np.arange(1.0, 8) / 28)
    np.testing.assert_array_equal(of("none", traj), REWARDS)
    np.testing.assert_allclose(
        of("batch_mean", traj), REWARDS - np.average(REWARDS, weights=np.arange(1, 8)), atol=1e-15
    )


@settings(deadline=None, max_examples=15, derandomize=True, database=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 0.7, 1.0]), min_size=6, max_size=6), st.integers(0, 3))
def test_group_advantages_are_centred_and_of_unit_scale(rewards, shift):
    """Sum 0 and mean square 1 in every group that is not degenerate; adding a constant changes nothing."""
    with jax.enable_x64(True):
        groups = [0, 0, 0, 1, 1, 1]
        A = of("group_normalised", batch(rewards, groups), epsilon=0.0)
        moved = of("group_normalised", batch(np.array(rewards) + shift, groups), epsilon=0.0)
    np.testing.assert_allclose(moved, A, rtol=0, atol=1e-13)  # spread >= 0.1: relative error 3 eps / 0.1 on centring
    for g in (slice(0, 3), slice(3, 6)):
        assert abs(A[g].sum()) < 1e-13
        assert (A[g] ** 2).mean() == pytest.approx(0.0 if len(set(rewards[g])) == 1 else 1.0, abs=1e-13)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -0.7, 1e3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_groups_give_exactly_zero(x64, value, dtype):
    """Rounding dust in the mean of equal returns must not be blown up by a division by it."""
    A = of("group_normalised", batch([value] * 7, [0] * 7, dtype=dtype), epsilon=0.0)
    assert A.dtype == dtype
    np.testing.assert_array_equal(A, 0.0)


def test_small_real_differences_are_not_dust():
    """Returns that differ by 1e-3 (a KL charge, say) are a signal, in float32 too."""
    rewards = [1.0, 1.0, 0.999, 1.001]
    A = of("group_normalised", batch(rewards, [0] * 4, dtype=np.float32), epsilon=0.0)
    # Centring loses eps / 7e-4 of relative precision: 2e-4.
    np.testing.assert_allclose(A, [0, 0, -np.sqrt(2), np.sqrt(2)], rtol=0, atol=1e-3)


LAWS = {
    "binary": ((0.0, 1.0), [[0.3, 0.7], [0.9, 0.1]]),
    "graded": ((0.0, 0.5, 1.0), [[0.2, 0.5, 0.3], [0.6, 0.0, 0.4]]),
    "not dyadic": ((-0.2, 0.1, 1 / 3), [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1]]),
    "certain": ((0.0, 1.0), [[0.0, 1.0], [1.0, 0.0]]),
}


def law_batch(name: str) -> tuple[Trajectories, tuple[float, ...], np.ndarray]:
    """Two prompts (probability 0.4, 0.6); every value appears as two trajectories that share its probability."""
    support, laws = LAWS[name]
    rewards = np.tile(np.repeat(support, 2), 2)
    groups = np.repeat([0, 1], 2 * len(support))
    split = np.tile([0.25, 0.75], 2 * len(support))
    weights = np.repeat(np.array([0.4, 0.6])[:, None] * np.array(laws), 2) * split
    return batch(rewards, groups, weights, exact=True), support, np.array(laws)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_normalised", "maxrl"])
def test_exact_laws_match_every_group_written_out(x64, name, law, size):
    traj, support, laws = law_batch(law)
    options: dict = {} if name == "leave_one_out" else {"group_size": size}
    for epsilon in (0.0, 1e-2) if name in DIVIDED else (0.0,):
        if name in DIVIDED:
            options |= {"reward_support": support, "epsilon": epsilon}
        got = of(name, traj, **options)
        expected = [
            oracle.expected_group_advantage(name, float(r), support, laws[g], size, epsilon)
            for r, g in zip(traj.reward, traj.group, strict=True)
        ]
        assert np.isfinite(got).all()
        # gammaln and exp cost a few tens of eps on probabilities of order 1.
        np.testing.assert_allclose(got, expected, rtol=0, atol=TIGHT)


def test_the_wrong_group_size_is_seen(x64):
    """Control of the comparison above: a group of 3 is not a group of 4."""
    traj, support, laws = law_batch("binary")
    got = of("group_normalised", traj, group_size=4, epsilon=0.0)
    wrong = [
        oracle.expected_group_advantage("group_normalised", float(r), support, laws[g], 3)
        for r, g in zip(traj.reward, traj.group, strict=True)
    ]
    assert np.abs(got - wrong).max() > 1e-2


def test_grpo_scale_on_a_binary_law(x64):
    """E[A (1[right] - p)] at a prompt is E[std of k/G], k binomial: the closed form of the prompt's weight."""
    traj, _, laws = law_batch("binary")
    G = 4
    A = of("group_normalised", traj, group_size=G, epsilon=0.0)
    for g in (0, 1):
        p = laws[g, 1]
        here = np.asarray(traj.group) == g
        weight = np.asarray(traj.weight)[here] / np.asarray(traj.weight)[here].sum()
        signal = (weight * A[here] * (np.asarray(traj.reward)[here] - p)).sum()
        closed = sum(comb(G, k) * p**k * (1 - p) ** (G - k) * np.sqrt(k * (G - k)) / G for k in range(G + 1))
        assert signal == pytest.approx(closed, abs=TIGHT)


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_normalised", "maxrl"])
def test_a_group_of_one_is_refused(x64, name):
    for groups in ([0, 1, 2, 3], [0, 0, 0, 1]):  # all alone; or one alone among others
        with pytest.raises(InputError, match="group size"):
            eager(name, batch(REWARDS[: len(groups)], groups))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("group_mean", {"group_size": 1}, "group_size: received 1"),
        ("opo", {"group_size": 1}, "group_size: received 1"),
        ("group_normalised", {"group_size": 1}, "group_size: received 1"),
        ("group_normalised", {"reward_support": (0.0, 1.0, 1.0)}, "reward_support"),  # a value twice
        ("group_normalised", {"group_size": 64, "reward_support": tuple(np.linspace(0, 1, 9))}, "compositions"),
    ],
)
def test_what_an_exact_law_cannot_do_is_refused(x64, name, options, words):
    with pytest.raises(InputError, match=words):
        eager(name, law_batch("binary")[0], **options)


@pytest.mark.parametrize("mass", [0.3, 1e-8])
def test_mass_outside_of_the_reward_support(x64, mass):
    """An error where values are at hand, NaN inside of a trace, however little mass it is."""
    traj = batch([0.0, 1.0, 0.5], [0, 0, 0], [0.5, 0.5 - mass, mass], exact=True)
    with pytest.raises(InputError, match="reward_support"):
        eager("group_normalised", traj)
    assert np.isnan(of("group_normalised", traj)).all()
    # Values without probability do no harm, and support without mass neither.
    assert np.isfinite(of("group_normalised", batch([0.0, 1.0, 0.5], [0] * 3, [0.5, 0.5, 0.0], exact=True))).all()
    assert np.isfinite(of("group_normalised", traj, reward_support=(0.0, 0.25, 0.5, 1.0))).all()


def by_length(rewards, stops, groups, weights=None) -> Trajectories:
    """Answers of two tokens, at most three rounds: 3, 6 or 8 loss tokens."""
    B = len(rewards)
    return from_rounds(
        prompt=np.zeros((B, 1), np.int32),
        answers=np.zeros((B, 3, 2), np.int32),
        stop_round=np.asarray(stops, np.int32),
        horizon=3,
        reward=jnp.asarray(rewards),
        weight=jnp.asarray(np.full(B, 1 / B) if weights is None else weights),
        group=np.asarray(groups, np.int32),
        num_groups=2,
        exact=weights is not None,
    )


def test_opo_weighs_returns_by_length(x64):
    stops = [0, 1, 2, 2, 0, 1, 1]
    A, T = of("opo", by_length(REWARDS, stops, GROUPS)), np.array([3, 6, 8])[stops]
    for g in (0, 1):
        here = g == GROUPS
        weighted = REWARDS[here] - (T * REWARDS)[here].sum() / T[here].sum()
        np.testing.assert_allclose(A[here], weighted, rtol=0, atol=1e-14)
        assert np.abs(weighted - (REWARDS[here] - REWARDS[here].mean())).max() > 1e-3  # the plain mean is seen


@pytest.mark.parametrize("size", [2, 4])
def test_opo_on_an_exact_law_matches_every_group_written_out(x64, size):
    """Two prompts, one of them without mass on one length; returns of any value, also two of one length."""
    rewards = np.array([0.0, 1.0, -0.3, 0.4, 0.7, 0.1])
    stops, groups = np.array([0, 0, 1, 2, 1, 2]), np.array([0, 0, 0, 0, 1, 1])
    weights, T = np.array([0.1, 0.2, 0.15, 0.15, 0.3, 0.1]), np.array([3, 6, 8])[stops]
    A = of("opo", by_length(rewards, stops, groups, weights), group_size=size)
    for i, g in enumerate(groups):
        here = np.flatnonzero(groups == g)
        expected = 0.0
        for others in itertools.product(here, repeat=size - 1):
            group = np.array([i, *others])
            probability = np.prod(weights[list(others)] / weights[here].sum())
            expected += probability * (rewards[i] - (T * rewards)[group].sum() / T[group].sum())
        # A Fourier transform of at most 28 probabilities, there and back: some tens of eps.
        assert A[i] == pytest.approx(expected, abs=1e-14)


def test_unknown_names_list_the_known_ones(x64):
    with pytest.raises(InputError) as error:
        advantage("mean", jnp.zeros(2), batch([0.0, 1.0], [0, 0]))
    for name in ADVANTAGES:
        assert name in str(error.value)


def test_no_gradient_flows_through_an_advantage(x64):
    traj = batch(REWARDS, GROUPS)
    traj = traj.replace(values=jnp.zeros(traj.tokens.shape))

    @quick_jit
    def gradients(reward):
        return [jax.grad(lambda r, n=n: advantage(n, r, traj).ravel()[0])(reward) for n in ADVANTAGES]

    for gradient in gradients(traj.reward):
        np.testing.assert_array_equal(gradient, 0.0)


def test_a_batch_without_weight_is_finite(x64):
    """Padding of a micro-batch: all weights 0."""
    traj = batch(REWARDS, GROUPS, np.zeros(7))
    traj = traj.replace(values=jnp.zeros(traj.tokens.shape))
    run = quick_jit(lambda t: [advantage(name, t.reward, t) for name in ADVANTAGES])
    for A in run(traj):
        assert np.isfinite(A).all()


@pytest.mark.parametrize(
    ("objective", "options", "size"),
    [
        ("rloo", {}, 2),
        ("rloo", {}, 3),
        ("reinforce", {"baseline": "group_mean"}, 3),
        ("reinforce", {"baseline": "maxrl", "epsilon": 0.0}, 3),
        ("reinforce", {"baseline": "opo"}, 3),
        ("grpo", {"epsilon": 0.0}, 3),
    ],
)
def test_sampled_objective_averaged_over_all_groups_is_the_exact_one(x64, objective, options, size):
    """Every group of G trajectories, one by one, with its probability: the same coefficients as on the exact law.

    For leave-one-out this is unbiasedness, for the group mean the factor (G - 1)/G.
    """
    case = make_case(SMALL, seed=1, binary=True)
    traj, brute = enumerated(case.process, case.policy, case.params), oracle.enumerate_toy(case.toy)
    old_logp, N = jnp.asarray(traj.old_logp), len(brute)
    members = np.array(list(itertools.product(range(N), repeat=size)))
    probability = np.prod(np.asarray(traj.weight)[members], axis=1)
    f = resolve(objective, options)

    def law_coefficients(g, logp, law) -> np.ndarray:
        return np.asarray(quick_jit(functools.partial(coefficients, g))(logp, law))

    def of_group(index_G):
        group = Trajectories(
            tokens=traj.tokens[index_G],
            prompt=traj.prompt[index_G],
            sample_mask=traj.sample_mask[index_G],
            decision_mask=traj.decision_mask[index_G],
            round=traj.round[index_G],
            reward=traj.reward[index_G],
            weight=jnp.full(size, 1 / size),
            group=jnp.zeros(size, jnp.int32),
            old_logp=old_logp[index_G],
        )
        return coefficients(f, old_logp[index_G], group)

    c = np.asarray(quick_jit(jax.vmap(of_group))(members)) * probability[:, None, None]
    averaged = np.zeros(traj.tokens.shape)
    np.add.at(averaged, members, c)
    on_law = {} if objective == "rloo" else {**options, "group_size": size}
    if options.get("baseline") == "group_mean":
        exact = (size - 1) / size * law_coefficients(resolve("rloo"), old_logp, traj)
    else:
        exact = law_coefficients(resolve(objective, on_law), old_logp, traj)
    np.testing.assert_allclose(averaged, exact, rtol=0, atol=TIGHT)
    if objective == "rloo" or options.get("baseline") == "group_mean":
        scale = 1.0 if objective == "rloo" else (size - 1) / size
        expected = oracle.return_gradient(case.toy, brute)
        per_token = [averaged[i][np.asarray(traj.mask[i])] / brute[i].probability for i in range(N)]
        index = {w[:2]: i for i, w in enumerate(brute)}
        got = oracle.score_gradient(case.toy, brute, lambda w, i: per_token[index[w[:2]]][i])
        for name in ("sample", "decision"):
            np.testing.assert_allclose(got[name], scale * expected[name], rtol=0, atol=TIGHT)

"""Advantages per token: exact values, GAE, whitening, the biased baseline per turn, against the oracle."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.objectives.advantages import advantage
from dsjax.objectives.aggregation import aggregate
from dsjax.objectives.critic import exact_values, value_loss
from dsjax.objectives.token_advantages import token_rewards, whitened
from dsjax.policies import log_probs
from dsjax.trajectories import Trajectories
from tests import oracle
from tests.cases import SMALL, TIGHT, Case, Shape, enumerated, layout, make_case
from tests.objectives.reference import batch, quick_jit


class Exact(NamedTuple):
    case: Case
    traj: Trajectories
    brute: list[oracle.Trajectory]  # in the order of the oracle
    row: dict[tuple, int]  # (prompt, answers) -> row of traj


@functools.lru_cache
def exact(rounds: int) -> Exact:
    with jax.enable_x64(True):
        case = make_case(Shape(2, 2, rounds, 2, "full"), cost=0.1, seed=3)
        traj = enumerated(case.process, case.policy, case.params)
        traj = traj.replace(values=quick_jit(exact_values)(traj))
    answers, mask = np.asarray(traj.answers(2)), np.asarray(traj.sample_mask).reshape(len(traj.reward), -1, 3)[..., 0]
    row = {}
    for i, prompt in enumerate(np.asarray(traj.prompt)[:, 0]):
        row[int(prompt), tuple(tuple(map(int, y)) for y in answers[i][mask[i]])] = i
    return Exact(case, traj, oracle.enumerate_toy(case.toy), row)


def token_table(e: Exact, function) -> np.ndarray:
    """f[B, S] of function(trajectory, factor), zero where nothing is drawn."""
    out = np.zeros(e.traj.tokens.shape)
    for w in e.brute:
        i = e.row[w.prompt, w.answers]
        out[i][np.asarray(e.traj.mask[i])] = [function(w, f) for f in w.factors]
    return out


def gradients(e: Exact, *objectives) -> list[dict[str, np.ndarray]]:
    """The expected gradient of each, in the oracle's layout, by one program."""

    @quick_jit
    def compute(params, traj):
        logp, pull = jax.vjp(lambda p: log_probs(e.case.policy, p, traj), params)
        return [pull(coefficients(f, logp, traj))[0] for f in objectives]

    return [layout(g) for g in compute(e.case.params, e.traj)]


@pytest.mark.parametrize("rounds", [2, 3])
def test_exact_values_are_conditional_means(x64, rounds):
    e = exact(rounds)
    nodes = oracle.conditional(e.brute)
    assert e.traj.values is not None
    got = np.where(e.traj.mask, e.traj.values, 0.0)
    np.testing.assert_allclose(got, token_table(e, lambda w, f: nodes.mean[f.node]), rtol=0, atol=TIGHT)


def test_gae_with_exact_values(x64):
    """lambda = 1: R - V. lambda = 0: each token's own causal advantage. Both against conditional means."""
    e = exact(3)
    nodes = oracle.conditional(e.brute)
    one, zero = quick_jit(lambda t: [advantage("gae", t.reward, t, gae_lambda=x) for x in (1.0, 0.0)])(e.traj)
    np.testing.assert_allclose(one, token_table(e, lambda w, f: w.reward - nodes.mean[f.node]), rtol=0, atol=TIGHT)
    causal = token_table(e, lambda w, f: nodes.mean[oracle.child(f, f.choice)] - nodes.mean[f.node])
    np.testing.assert_allclose(zero, causal, rtol=0, atol=TIGHT)
    # On the decisions these are the process's own advantages; an answer's tokens add up to the advantage of the answer.
    process = e.case.process
    own = quick_jit(lambda x: process.token_advantages(process.values(process.tables(x))))(jnp.asarray(e.traj.old_logp))
    own, blocks = (np.where(e.traj.mask, x, 0.0).reshape(len(own), -1, 3) for x in (own, zero))
    np.testing.assert_allclose(blocks[..., 2], own[..., 2], rtol=0, atol=TIGHT)
    np.testing.assert_allclose(blocks[..., :2].sum(-1), own[..., 0], rtol=0, atol=TIGHT)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_ppo_with_exact_values_is_unbiased(x64, gae_lambda):
    """Summed over tokens it ascends grad J for every lambda; with other values only at lambda = 1."""
    e = exact(2)
    expected = oracle.return_gradient(e.case.toy, e.brute)
    options = {"aggregation": "sequence_sum", "gae_lambda": gae_lambda}
    f = resolve("ppo", options)
    got, wrong = gradients(e, f, lambda x, t: f(x, t.replace(values=jnp.cumsum(t.values, -1))))
    for name in ("sample", "decision"):
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=TIGHT)
    error = max(np.abs(wrong[n] - expected[n]).max() for n in expected)
    assert error < TIGHT if gae_lambda == 1 else error > 1e-3


def test_reinforce_plus_plus_ascends_the_return(x64):
    """Whitening by constants of the batch only rescales: grad J / (standard deviation x tokens per sequence)."""
    e = exact(2)
    weight, T = np.asarray(e.traj.weight), np.asarray(e.traj.mask).sum(-1)
    R, N = np.asarray(e.traj.reward), weight @ T
    mean = weight @ (T * R) / N
    std = np.sqrt(weight @ (T * (R - mean) ** 2) / N)
    assert abs(mean - weight @ R) > 1e-3  # weighted by length: not the mean return
    (got,) = gradients(e, resolve("reinforce_plus_plus", {"epsilon": 0.0}))
    expected = oracle.return_gradient(e.case.toy, e.brute)
    for name in ("sample", "decision"):
        np.testing.assert_allclose(got[name] * std * N, expected[name], rtol=0, atol=TIGHT)


def test_kl_per_token_has_the_expected_gradient_of_the_trajectory_kl(x64):
    """What a token no longer pays for lies before it, and has mean zero against its score."""
    e = exact(2)
    ref = np.where(e.traj.mask, -0.3 - np.cos(np.arange(6)) ** 2 * (1 + np.asarray(e.traj.tokens)), 0.0)
    e = e._replace(traj=e.traj.replace(ref_logp=jnp.asarray(ref)))
    options = ({"reward_kl": 0.4}, {"baseline": "returns_to_go", "reward_kl": 0.4}, {})
    whole, ahead, plain = gradients(e, *(resolve("reinforce", o) for o in options))
    for name in ("sample", "decision"):
        np.testing.assert_allclose(ahead[name], whole[name], rtol=0, atol=TIGHT)
        assert np.abs(plain[name] - whole[name]).max() > 1e-3


def turn_means(e: Exact) -> dict[tuple[int, int], float]:
    """b of (prompt, turn): mean reward paid in that turn over the trajectories that reach it."""
    means = {}
    for q in range(2):
        for k in range(3):
            here = [w for w in e.brute if w.prompt == q and len(w.answers) > k]
            paid = sum(w.probability * w.reward for w in here if len(w.answers) == k + 1)
            means[q, k] = paid / sum(w.probability for w in here)
    return means


def test_baseline_per_turn_is_biased(x64):
    """It ascends E[R - sum of b over the turns used], b fixed; a baseline on its own turn's tokens ascends E[R]."""
    e = exact(3)
    b = turn_means(e)
    expected = oracle.score_gradient(
        e.case.toy, e.brute, lambda w, i: w.reward - sum(b[w.prompt, k] for k in range(len(w.answers)))
    )
    unbiased = oracle.return_gradient(e.case.toy, e.brute)
    means = jnp.asarray([[b[q, k] for k in range(3)] for q in range(2)])

    def own_turn_only(logp, traj):
        A = traj.reward[:, None] - means[traj.group[:, None], traj.round]
        return aggregate(-A * logp, traj, "sequence_sum")

    got, harmless = gradients(e, resolve("biased_per_turn"), own_turn_only)
    for name in ("sample", "decision"):
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=TIGHT)
        np.testing.assert_allclose(harmless[name], unbiased[name], rtol=0, atol=TIGHT)
        assert np.abs(got[name] - unbiased[name]).max() > 1e-3


def test_baseline_per_turn_takes_away_the_push_to_resample(x64):
    """Two rounds, no memory: b_2 is what a second attempt is worth, so at a wrong answer nothing is left to learn."""
    case = make_case(SMALL, seed=1, binary=True)
    e = Exact(case, enumerated(case.process, case.policy, case.params), [], {})
    got, true = (g["decision"] for g in gradients(e, resolve("biased_per_turn"), resolve("reinforce")))
    wrong = np.asarray(case.process.reward_table)[0] == 0
    assert (true[wrong, 0] < -1e-2).all()
    np.testing.assert_allclose(got[wrong], 0.0, rtol=0, atol=TIGHT)


def test_rewards_are_paid_at_the_last_drawn_token(x64):
    _, traj = batch(imitated=True)
    paid = np.asarray(token_rewards(traj.reward, traj))
    for i, mask in enumerate(np.asarray(traj.mask)):
        assert np.flatnonzero(paid[i]).tolist() == [np.flatnonzero(mask)[-1]]
    np.testing.assert_array_equal(paid.sum(-1), traj.reward)
    np.testing.assert_array_equal(token_rewards(jnp.asarray(paid), traj), paid)


def test_whitening(x64):
    """Weighted mean 0 and variance 1 over drawn tokens; exactly 0 where all are equal; other tokens are 0."""
    _, traj = batch()
    x = jnp.asarray(np.random.default_rng(0).normal(size=traj.tokens.shape))
    m, w = np.asarray(traj.mask), np.arange(1.0, 9) / 36
    weighted = m * w[:, None]
    y = np.asarray(whitened(jnp.where(traj.mask, x, 0.0), traj.replace(weight=jnp.asarray(w)), 0.0))
    assert not y[~m].any()
    assert (weighted * y).sum() == pytest.approx(0, abs=1e-14)
    assert (weighted * y**2).sum() / weighted.sum() == pytest.approx(1, abs=1e-14)
    for value in (0.0, 1 / 3, -1e6):
        np.testing.assert_array_equal(whitened(jnp.where(traj.mask, value, 0.0), traj, 0.0), 0.0)


def test_value_loss(x64):
    """Against NumPy; it is least at the exact values, where the gradient vanishes in every state."""
    logp, traj = batch()
    V, old = np.asarray(logp), np.asarray(traj.values)
    A = np.asarray(quick_jit(lambda t: advantage("gae", t.reward, t, gae_lambda=0.5))(traj))
    m = np.asarray(traj.mask)
    near = old + np.clip(V - old, -0.3, 0.3)
    plain, clipped = (0.5 * (v - (A + old)) ** 2 for v in (V, near))
    for clip, expected in ((None, plain), (0.3, np.maximum(plain, clipped))):
        total, count = quick_jit(functools.partial(value_loss, gae_lambda=0.5, clip=clip))(logp, traj)
        np.testing.assert_allclose((total, count), (expected[m].sum() / 8, m.sum() / 8), rtol=1e-13)
    with pytest.raises(InputError, match="clip"):
        value_loss(logp, traj, clip=0.0)

    e = exact(2)
    assert e.traj.values is not None
    slope = np.asarray(quick_jit(jax.grad(lambda v: value_loss(v, e.traj)[0]))(e.traj.values))
    assert np.abs(slope).max() > 1e-3
    by_state: dict[tuple, float] = {}
    for w in e.brute:
        i = e.row[w.prompt, w.answers]
        for f, g in zip(w.factors, slope[i][np.asarray(e.traj.mask[i])], strict=True):
            by_state[f.node] = by_state.get(f.node, 0.0) + g
    np.testing.assert_allclose(list(by_state.values()), 0.0, rtol=0, atol=TIGHT)


def test_values_are_checked(x64):
    """Any sign, finite where a token was drawn, as long as the token axis; exact ones need an exact law."""
    _, traj = batch()
    x = np.asarray(traj.values)
    traj.replace(values=jnp.where(traj.mask, x, jnp.nan)).validate()
    assert "values" in repr(traj)
    for field, bad in (
        ("values", jnp.where(traj.mask, jnp.inf, x)),
        ("values.shape", jnp.asarray(x[:, :4])),
        ("values.dtype", jnp.zeros(x.shape, jnp.int32)),
    ):
        with pytest.raises(InputError) as error:
            traj.replace(values=bad).validate()
        assert error.value.field == field
    with pytest.raises(InputError, match="exact law"):
        exact_values(traj)

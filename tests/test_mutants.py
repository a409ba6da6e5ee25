"""Checks that a mutation run (`make mutation`) found missing: default clips, what is data, the critic, dust."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients
from dsjax.objectives import resolve
from dsjax.objectives.advantages import advantage
from dsjax.objectives.critic import value_loss
from dsjax.trajectories import Trajectories
from tests.cases import MIDDLE, TIGHT, enumerated, from_rounds, make_case, ragged_batch
from tests.objectives.reference import Batch, batch, quick_jit, sums_ahead, token_rewards

pytestmark = pytest.mark.usefixtures("x64")


def one_token_each(rewards, **change) -> Trajectories:
    """Sequences of one token (L = T = 1, so no decision), one group, recorded at log-prob -3."""
    B = len(rewards)
    traj = from_rounds(
        prompt=jnp.zeros((B, 1), jnp.int32),
        answers=jnp.zeros((B, 1, 1), jnp.int32),
        stop_round=jnp.zeros(B, jnp.int32),
        horizon=1,
        reward=jnp.asarray(rewards),
        weight=jnp.full(B, 1 / B),
        group=jnp.zeros(B, jnp.int32),
        num_groups=1,
    )
    return traj.replace(old_logp=jnp.full(traj.tokens.shape, -3.0), **change)


# The ratios at which the gradient of a token stops, by the documented defaults.
DEFAULT_CLIPS = {
    "rloo_clipped": (0.8, 1.2),
    "grpo": (0.8, 1.2),
    "gspo": (1 - 3e-4, 1 + 4e-4),
    "dapo": (0.8, 1.28),
    "dr_grpo": (0.8, 1.2),
    "ppo": (0.8, 1.2),
    "reinforce_plus_plus": (0.8, 1.2),
    "gmpo": (np.exp(-0.4), np.exp(0.4)),
    "luspo": (1 - 3e-4, 1 + 4e-4),
    # Recorded at probability exp(-3), which may move by 0.2 up; down to 0 it never moves as far.
    "dppo_tv": (0.0, 1 + 0.2 * np.exp(3)),
}


def by_ratio(name: str, ratios) -> np.ndarray:
    """f[N, 2]: coefficients of a token that did well and of one that did not, both at each ratio to the old policy."""
    traj = one_token_each([1.0, 0.0], values=jnp.full((2, 2), 0.5))

    @quick_jit
    def run(ratios_N):
        logp_NxBxS = jnp.broadcast_to(jnp.log(ratios_N)[:, None, None], (len(ratios), 2, 2)) - 3.0
        return jax.vmap(lambda logp: coefficients(resolve(name), logp, traj))(logp_NxBxS)

    return np.asarray(run(jnp.asarray(ratios)))[..., 0]


@pytest.mark.parametrize("name", DEFAULT_CLIPS)
def test_default_clips(name):
    """A part in a million inside of the clip a token still has its gradient, as far outside it has none."""
    low, high = DEFAULT_CLIPS[name]
    inside, outside = by_ratio(name, [high * (1 - 1e-6), high * (1 + 1e-6)])[:, 0]
    assert inside > 0 == outside
    if low > 0:
        inside, outside = by_ratio(name, [low * (1 + 1e-6), low * (1 - 1e-6)])[:, 1]
        assert inside < 0 == outside


def test_default_weights_of_cispo():
    """The clipped ratio is a weight: no lower clip, 5 at most."""
    c = by_ratio("cispo", [1.0, 1e-3, 0.5, 4.9, 5.1, 100.0])
    np.testing.assert_allclose(c / c[0], np.repeat([[1.0], [1e-3], [0.5], [4.9], [5.0], [5.0]], 2, axis=1), rtol=1e-12)


def test_rft_follows_the_law():
    """On an exact law: c = P(w) 1[R >= threshold] / (expected tokens of the kept), not one number for all."""
    case = make_case(MIDDLE, seed=5)
    traj = enumerated(case.process, case.policy, case.params)
    threshold = float(np.median(traj.reward))
    c = quick_jit(lambda x, t: coefficients(resolve("rft", {"threshold": threshold}), x, t))(traj.old_logp, traj)
    kept = np.asarray(traj.weight) * (np.asarray(traj.reward) >= threshold)
    mask = np.asarray(traj.mask)
    np.testing.assert_allclose(c, mask * kept[:, None] / (kept @ mask.sum(-1)), rtol=0, atol=TIGHT)
    assert np.ptp(kept[kept > 0]) > 1e-3


def test_tokens_that_were_never_drawn_have_no_coefficient():
    """Whatever a user's own objective makes of the padding."""
    logp, traj = ragged_batch()
    c = coefficients(lambda x, t: (jnp.sum(x), jnp.sum(t.weight)), logp, traj)
    np.testing.assert_array_equal(c, np.where(traj.mask, -1.0, 0.0))


def test_the_count_of_an_objective_is_data():
    """loss = sum / count with the count held fixed, also where a user's own count is a function of the log-probs."""
    logp, traj = ragged_batch()

    def own(x, t):
        x = jnp.where(t.mask, x, 0.0)
        return jnp.sum(x), 3.0 + jnp.sum(x**2)

    _, count = own(logp, traj)
    c = coefficients(own, logp, traj)
    np.testing.assert_allclose(c, np.where(traj.mask, -1.0 / float(count), 0.0), rtol=0, atol=1e-15)


def test_advantages_that_are_given_are_data():
    """One number a sequence or a token, however it was computed: c = A_it / B."""
    logp, traj = ragged_batch()
    mask, B = np.asarray(traj.mask), len(traj.reward)
    for f in (lambda x: jnp.sum(jnp.where(traj.mask, x, 0.0), -1), lambda x: jnp.where(traj.mask, x**2, 0.0)):
        A = np.asarray(f(logp)).reshape(B, -1)
        c = coefficients(lambda x, t, f=f: resolve("surrogate", {"advantage": f(x)})(x, t), logp, traj)
        np.testing.assert_allclose(c, mask * A / B, rtol=0, atol=1e-15)


def test_the_critic_is_fitted_to_what_is_discounted_and_charged():
    """lambda = 1: 1/2 (V - sum_k discount^k r_(t+k))^2, with each token's KL in its reward."""
    logp, traj = batch()
    b, discount, beta = Batch(logp, traj), 0.8, 0.3
    target = sums_ahead(b, token_rewards(b, b.R, beta), discount)
    total, count = quick_jit(lambda v, t: value_loss(v, t, discount=discount, reward_kl=beta))(logp, traj)
    np.testing.assert_allclose(total, 0.5 * ((b.logp - target)[b.m] ** 2).sum() / b.B, rtol=1e-13)
    np.testing.assert_allclose(count, b.T.mean(), rtol=1e-13)


def test_equal_returns_of_an_exact_law_give_exactly_zero():
    """A return that is certain: the standard deviation is 0, whatever rounding makes of the mean of G equal numbers."""
    values = np.array([0.1, 1 / 3, 0.7, -0.3, 1e3])
    dusty = 0
    for size in (6, 7):

        @quick_jit
        @jax.vmap
        def run(value, size=size):
            traj = one_token_each([0.0, 0.0]).replace(exact=True, reward=jnp.stack([value, value]))
            options = {"group_size": size, "reward_support": jnp.stack([value, value + 1]), "epsilon": 0.0}
            return advantage("group_normalised", traj.reward, traj, **options)

        np.testing.assert_array_equal(run(jnp.asarray(values)), 0.0)
        dusty += ((values * (size - 1) + values) / size != values).sum()
    assert dusty >= 2  # there was something to cut

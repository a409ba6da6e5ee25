"""Preference pairs on exact laws: the expectation over two independent trajectories of a prompt."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients
from dsjax.objectives import resolve
from dsjax.objectives.preference import pair_weights
from tests.cases import SMALL, TIGHT, enumerated, make_case
from tests.objectives.reference import quick_jit

BETA = 0.7


@functools.lru_cache
def law():
    """(logp, exact law) with two prompts' worth of returns, costs and a reference."""
    with jax.enable_x64(True):
        return _law()


def _law():
    case = make_case(SMALL._replace(prompts=2), cost=0.1, seed=2, binary=True)
    traj = enumerated(case.process, case.policy, case.params)
    ref = np.where(traj.mask, -0.2 - 0.3 * np.asarray(traj.tokens) - 0.1 * np.asarray(traj.round), 0.0)
    return np.asarray(traj.old_logp), traj.replace(ref_logp=jnp.asarray(ref))


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_exact_law_is_the_expectation_over_independent_pairs(x64, kind):
    logp, traj = law()
    w, R, q = (np.asarray(x) for x in (traj.weight, traj.reward, traj.group))
    m = np.asarray(traj.mask)
    drift = np.where(m, logp - np.asarray(traj.ref_logp), 0.0).sum(-1)
    score = drift if kind == "dpo" else drift / m.sum(-1)
    mass = np.array([w[q == k].sum() for k in q])
    total = count = 0.0
    for i, j in itertools.product(range(len(w)), repeat=2):
        if q[i] == q[j] and R[i] > R[j]:
            gap = score[i] - score[j]
            loss = np.log1p(np.exp(-BETA * gap)) if kind == "dpo" else (gap - 0.5 / BETA) ** 2
            total += w[i] * w[j] / mass[i] * loss
            count += w[i] * w[j] / mass[i]
    got = quick_jit(resolve(kind, {"beta": BETA}))(logp, traj)
    np.testing.assert_allclose(got, (total, count), rtol=0, atol=TIGHT)
    assert 0 < count < 0.5  # ordered pairs without ties


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_sampled_pairs_average_to_the_exact_law(x64, kind):
    """Every group of two with its probability: sum and count are half of those of the law (one order of two)."""
    logp, traj = law()
    f = resolve(kind, {"beta": BETA})
    w, q = np.asarray(traj.weight), np.asarray(traj.group)
    pairs = np.array([(i, j) for i, j in itertools.product(range(len(w)), repeat=2) if q[i] == q[j]])
    mass = np.array([w[q == q[i]].sum() for i, _ in pairs])

    @quick_jit
    def of_pairs(pairs):
        def one(pair):
            two = jax.tree.map(lambda x: x[pair], traj).replace(exact=False, num_groups=1)
            return f(jnp.asarray(logp)[pair], two.replace(group=jnp.zeros(2, jnp.int32), weight=jnp.full(2, 0.5)))

        return jax.vmap(one)(pairs)

    probability = w[pairs[:, 0]] * w[pairs[:, 1]] / mass
    averaged = [(probability * np.asarray(x)).sum() for x in of_pairs(pairs)]
    np.testing.assert_allclose(averaged, np.asarray(quick_jit(f)(logp, traj)) / 2, rtol=0, atol=TIGHT)


def test_pairs(x64):
    """No pair across prompts, of ties or of a trajectory with itself; each pair once, the better one first."""
    _, traj = law()
    weight, R, q = np.asarray(pair_weights(traj)), np.asarray(traj.reward), np.asarray(traj.group)
    np.testing.assert_array_equal(weight > 0, (q[:, None] == q[None, :]) & (R[:, None] > R[None, :]))
    assert not (weight * weight.T).any()
    assert not np.asarray(pair_weights(traj.replace(weight=0 * traj.weight))).any()


def test_dpo_pushes_both_components_of_a_trajectory_alike(x64):
    """One coefficient on all tokens of a trajectory; IPO divides it by that trajectory's length."""
    logp, traj = law()
    m, w = np.asarray(traj.mask), np.asarray(traj.weight)[:, None]
    both = quick_jit(lambda x, t: [coefficients(resolve(kind), x, t) for kind in ("dpo", "ipo")])
    for c in both(logp, traj):
        spread = np.where(m, c / w, -np.inf).max(-1) - np.where(m, c / w, np.inf).min(-1)
        np.testing.assert_allclose(spread, 0.0, atol=TIGHT)


def test_kto_is_unpaired_and_its_point_on_an_exact_law_is_the_mean(x64):
    """z = max(0, E x), as data: KL(P || P_ref) for a reference policy. One coefficient a trajectory, signed by R."""
    logp, traj = law()
    traj = traj.replace(ref_logp=1.5 * jnp.asarray(logp))
    m, w, R = np.asarray(traj.mask), np.asarray(traj.weight), np.asarray(traj.reward)
    x = np.where(m, logp - np.asarray(traj.ref_logp), 0.0).sum(-1)
    z = w @ x
    assert z > 0.01
    good = R >= 0.9  # a late success pays 0.1
    v = 1 / (1 + np.exp(-BETA * np.where(good, 1, -1) * (x - z)))
    expected = w * np.where(good, 1.0, -0.5) * BETA * v * (1 - v)
    f = resolve("kto", beta=BETA, threshold=0.9, undesirable_weight=0.5)
    c = np.asarray(quick_jit(lambda x, t: coefficients(f, x, t))(logp, traj))
    np.testing.assert_allclose(c, np.where(m, expected[:, None], 0.0), rtol=0, atol=TIGHT)

"""KL: estimators, the two places where a KL can stand, and what each one's expected gradient is on exact laws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.errors import InputError
from dsjax.objectives import resolve, reward_with_kl
from dsjax.objectives.kl import ESTIMATORS, LOSS_ESTIMATORS, estimate, log_ratio
from dsjax.policies import log_probs
from dsjax.trajectories import Trajectories
from tests import oracle
from tests.cases import MIDDLE, TIGHT, Case, layout, make_case, ragged_batch, random_params, toy_of
from tests.objectives.reference import quick_jit


def test_estimates_are_their_closed_forms(x64):
    x = np.array([-2.0, -0.1, 0.0, 0.3, 4.0])
    expected = {"k1": x, "k2": x**2 / 2, "k3": np.exp(-x) - 1 + x, "abs": np.abs(x)}
    assert set(expected) == set(ESTIMATORS)
    for name, value in expected.items():
        np.testing.assert_allclose(estimate(jnp.asarray(x), name), value, rtol=1e-14, atol=1e-15)
    # Beyond a log-ratio of -20 k3 stays where it is, instead of overflowing.
    np.testing.assert_array_equal(estimate(jnp.asarray([-20.0, -1e3]), "k3"), np.expm1(20.0) - 20)
    with pytest.raises(InputError, match="estimator: received 'k4'; allowed: k1, k2, k3, k3_ratio"):
        estimate(jnp.asarray(x), "k4")


def test_k3_near_the_reference_keeps_its_digits(x64):
    """x = 1e-6: exp(-x) - 1 loses 10 digits, expm1 only 6. k3 -> x^2/2."""
    x = 1e-6
    # The sum -x + x^2/2 .. + x leaves eps x of absolute error: relative 2 eps / x = 4e-10.
    assert float(estimate(jnp.asarray(x), "k3")) == pytest.approx(x**2 / 2 - x**3 / 6, rel=4e-10, abs=0)
    assert np.exp(-x) - 1 + x != pytest.approx(x**2 / 2, rel=1e-6, abs=0)  # control


def test_estimates_average_to_the_kl(x64):
    """Under pi: E k1 = E k3 = KL(pi || ref); k2 does not average to it, and k1 may be negative."""
    rng = np.random.default_rng(0)
    pi, ref = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    x = jnp.asarray(np.log(pi / ref))
    kl = float(pi @ np.log(pi / ref))
    k1, k2, k3, size = (np.asarray(estimate(x, name)) for name in ESTIMATORS)
    assert pi @ size > kl + 1e-3
    assert pi @ k1 == pytest.approx(kl, abs=TIGHT)
    assert pi @ k3 == pytest.approx(kl, abs=TIGHT)
    assert abs(pi @ k2 - kl) > 1e-3
    assert k1.min() < 0 <= k3.min()


@pytest.fixture(scope="module")
def two() -> tuple[Case, oracle.Toy, Trajectories]:
    """A process, the oracle's version of it under a reference policy, and its exact law with reference log-probs."""
    with jax.enable_x64(True):
        case = make_case(MIDDLE, cost=0.1, seed=4)
        reference = random_params(case.policy, np.random.default_rng(9))

        @quick_jit
        def build(process, params, reference):
            traj = process.enumerate_trajectories(case.policy, params)
            return traj.replace(ref_logp=log_probs(case.policy, reference, traj))

        return case, toy_of(case.toy, reference), build(case.process, case.params, reference)


def gradient(case: Case, traj: Trajectories, name: str, **options) -> dict[str, np.ndarray]:
    """Descent direction turned round: the gradient of the loss, in the oracle's layout."""
    f = resolve(name, options)
    total = quick_jit(lambda p, t: component_gradients(case.policy, p, t, f).total)(case.params, traj)
    return {k: -v for k, v in layout(total).items()}


def local_gradients(case: Case, reference: oracle.Toy, which: str) -> dict[str, np.ndarray]:
    """rho(x) times the gradient of a local KL in the logits of context x, closed form."""
    mass = oracle.context_mass(case.toy, oracle.enumerate_toy(case.toy))
    out = {}
    for name in ("sample", "decision"):
        pi = case.toy.arrange(name, getattr(case.toy, name))
        ref = reference.arrange(name, getattr(reference, name))
        log_ratio = np.log(pi / ref)
        reverse = pi * (log_ratio - (pi * log_ratio).sum(-1, keepdims=True))  # of KL(pi || ref)
        forward = pi - ref  # of KL(ref || pi)
        out[name] = mass[name][:, None] * {"k1": 0 * pi, "k2": reverse, "k3": forward}[which]
    return out


@pytest.fixture(scope="module")
def own_token_gradients(two) -> dict[str, dict[str, np.ndarray]]:
    """Of every estimator, in one program."""
    case, _, traj = two
    objectives = {name: resolve("own_token_kl", estimator=name) for name in LOSS_ESTIMATORS}
    with jax.enable_x64(True):

        @quick_jit
        def run(params, traj):
            return {n: component_gradients(case.policy, params, traj, f).total for n, f in objectives.items()}

        return {n: {k: -v for k, v in layout(g).items()} for n, g in run(case.params, traj).items()}


@pytest.mark.parametrize("estimator", LOSS_ESTIMATORS)
def test_expected_gradient_of_own_token_kl(x64, two, own_token_gradients, estimator):
    """k1: nothing at all. k3: the forward KL of every context. abs, and k2 with its score: neither.

    The reverse KL of every context: k2, k3 x ratio, every straight-through one, k1 and k3 with the score kept.
    """
    case, reference, _ = two
    measured = own_token_gradients[estimator]
    expected = {k: local_gradients(case, reference, k) for k in ("k1", "k2", "k3")}
    is_ = {"k1": "k1", "k3": "k3", "abs": None, "k2_score": None}.get(estimator, "k2")
    for name in ("sample", "decision"):
        for other, closed in expected.items():
            if other == is_:
                np.testing.assert_allclose(measured[name], closed[name], rtol=0, atol=TIGHT)
            else:
                assert np.abs(measured[name] - closed[name]).max() > 1e-3


def test_expected_gradient_of_the_entropy_bonus(x64, two):
    """Minus the entropy is the KL to a uniform law plus a constant; -log pi as it stands has no expected gradient."""
    case, _, traj = two
    uniform = toy_of(case.toy, {k: jnp.zeros_like(v) for k, v in case.params.items()})
    measured, closed = gradient(case, traj, "entropy_bonus"), local_gradients(case, uniform, "k2")
    zero = jax.tree.map(jnp.zeros_like, traj.ref_logp)
    naive = gradient(case, traj.replace(ref_logp=zero), "own_token_kl", estimator="k1")
    for name in ("sample", "decision"):
        np.testing.assert_allclose(measured[name], closed[name], rtol=0, atol=TIGHT)
        np.testing.assert_allclose(naive[name], 0.0, rtol=0, atol=TIGHT)
        assert np.abs(closed[name]).max() > 1e-3


def test_own_token_kl_is_not_the_kl_of_trajectories(x64, two):
    """The value of own-token k1 is KL(P || P_ref) exactly; its gradient is not that of KL(P || P_ref)."""
    case, reference, traj = two
    brute = oracle.enumerate_toy(case.toy)
    kl = oracle.kl(brute, oracle.enumerate_toy(reference))
    logp = jnp.asarray(traj.old_logp)
    for estimator in ("k1", "k3"):
        total, count = resolve("own_token_kl", {"estimator": estimator})(logp, traj)
        assert float(total / count) == pytest.approx(kl, abs=TIGHT)
    trajectory = kl_gradient(case, brute, traj)
    k2 = gradient(case, traj, "own_token_kl", estimator="k2")
    assert np.abs(trajectory["decision"] - k2["decision"]).max() > 1e-3


def kl_gradient(case: Case, brute: list[oracle.Trajectory], traj: Trajectories) -> dict[str, np.ndarray]:
    """grad KL(P || P_ref) = E[log(P/P_ref) sum of scores], over the enumerated trajectories."""
    drift = np.where(traj.mask, np.asarray(traj.old_logp) - np.asarray(traj.ref_logp), 0.0).sum(-1)
    index = {w[:2]: i for i, w in enumerate(brute)}
    return oracle.score_gradient(case.toy, brute, lambda w, i: drift[index[w[:2]]])


def test_trajectory_kl_has_the_gradient_of_the_kl(x64, two):
    """Three ways: the objective, the score form, and autodiff of the exact KL by backward recursion."""
    case, _, traj = two
    brute = oracle.enumerate_toy(case.toy)
    measured, scores = gradient(case, traj, "trajectory_kl"), kl_gradient(case, brute, traj)

    def exact(params):
        logp = log_probs(case.policy, params, traj)
        tables = case.process.tables(logp)
        return case.process.expected_return(tables, log_ratio(logp, traj).sum(-1))

    autodiff = layout(quick_jit(jax.grad(exact))(case.params))
    for name in ("sample", "decision"):
        np.testing.assert_allclose(measured[name], scores[name], rtol=0, atol=TIGHT)
        np.testing.assert_allclose(measured[name], autodiff[name], rtol=0, atol=TIGHT)


def test_kl_in_the_reward_is_reward_minus_trajectory_kl(x64, two):
    case, _, traj = two
    beta = 0.37
    both = gradient(case, traj, "reinforce", reward_kl=beta)
    reward, kl = gradient(case, traj, "reinforce"), gradient(case, traj, "trajectory_kl")
    for name in ("sample", "decision"):
        np.testing.assert_allclose(both[name], reward[name] + beta * kl[name], rtol=0, atol=TIGHT)


def test_reward_with_kl_is_data(x64):
    logp, traj = ragged_batch()
    mask = np.asarray(traj.mask)
    drift = np.where(mask, np.asarray(traj.old_logp) - np.asarray(traj.ref_logp), 0.0).sum(-1)
    np.testing.assert_allclose(reward_with_kl(traj, 0.5), np.asarray(traj.reward) - 0.5 * drift, atol=1e-14)
    assert reward_with_kl(traj, 0) is traj.reward
    np.testing.assert_allclose(jax.jit(reward_with_kl)(traj, jnp.asarray(0.5)), reward_with_kl(traj, 0.5), atol=1e-14)
    flow = jax.grad(lambda x: reward_with_kl(traj.replace(old_logp=x), 0.5).sum())(logp)
    np.testing.assert_array_equal(flow, 0.0)


def test_log_ratio_is_zero_and_flat_behind_the_masks(x64):
    logp, traj = ragged_batch()
    dirty, ref = jnp.where(traj.mask, logp, jnp.nan), jnp.asarray(traj.ref_logp)
    x = log_ratio(dirty, traj.replace(ref_logp=jnp.where(traj.mask, ref, jnp.inf)))
    assert not np.asarray(x)[~np.asarray(traj.mask)].any()
    flow = jax.grad(lambda y: (log_ratio(y, traj) ** 2).sum())(dirty)
    np.testing.assert_allclose(flow, 2 * np.asarray(x), rtol=0, atol=1e-15)

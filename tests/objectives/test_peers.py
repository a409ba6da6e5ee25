"""The same functions in optax and, by stored numbers, in rlax."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsjax.objectives import resolve
from dsjax.objectives.advantages import advantage
from dsjax.objectives.critic import value_loss
from dsjax.trajectories import Trajectories
from tests.objectives.make_rlax_reference import DISCOUNT, GAE, Arrays, inputs, load, logits_for, outputs
from tests.objectives.reference import batch, quick_jit

EXACT = 1e-13  # a few dozen operations on numbers of order 1


@pytest.fixture(scope="module")
def peers() -> tuple[Arrays, Arrays]:
    """(inputs, what rlax made of them), as stored."""
    return load()


def full(traj: Trajectories) -> Trajectories:
    """No padding: rlax takes rectangular batches."""
    decision = jnp.zeros(traj.tokens.shape, bool).at[:, 2::3].set(True)
    return traj.replace(sample_mask=~decision, decision_mask=decision)


def stored_batch(given: Arrays) -> tuple[jax.Array, Trajectories]:
    fields = {name: jnp.asarray(given[name]) for name in ("old_logp", "values", "reward")}
    return jnp.asarray(given["logp"]), full(batch()[1]).replace(**fields)


def test_optax_cross_entropy(x64):
    logp, traj = batch()
    nll = optax.softmax_cross_entropy_with_integer_labels(logits_for(logp), jnp.zeros(logp.shape, jnp.int32))
    total, count = quick_jit(resolve("sft"))(logp, traj)
    assert float(total / count) == pytest.approx(float(jnp.mean(nll, where=traj.mask)), rel=EXACT)


def test_optax_sigmoid_cross_entropy_is_dpo(x64):
    logp, traj = batch()
    traj = traj.replace(group=jnp.asarray([0, 0, 1, 1, 2, 2, 3, 3], jnp.int32))
    drift = jnp.sum(jnp.where(traj.mask, logp - jnp.asarray(traj.ref_logp), 0.0), -1).reshape(4, 2)
    sign = jnp.sign(traj.reward.reshape(4, 2) @ jnp.asarray([1.0, -1.0]))
    gap = sign * (drift @ jnp.asarray([1.0, -1.0]))
    expected = optax.sigmoid_binary_cross_entropy(0.3 * gap, jnp.ones(4))[sign != 0].mean()
    total, count = quick_jit(resolve("dpo", {"beta": 0.3}))(logp, traj)
    assert float(total / count) == pytest.approx(float(expected), rel=EXACT)


def test_optax_l2_is_the_value_loss(x64):
    logp, traj = batch()
    target = advantage("gae", traj.reward, traj) + jnp.asarray(traj.values)
    total, count = quick_jit(value_loss)(logp, traj)
    expected = jnp.mean(optax.l2_loss(logp, target), where=traj.mask)
    assert float(total / count) == pytest.approx(float(expected), rel=EXACT)


def test_the_stored_numbers_are_what_rlax_computes(peers):
    """Where it can be imported; it is not a dependency."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("rlax", exc_type=ImportError)
    given, expected = peers
    for kind, fresh in ((given, inputs()), (expected, outputs(given))):
        assert kind.keys() == fresh.keys()
        for name, x in fresh.items():
            np.testing.assert_allclose(kind[name], x, rtol=0, atol=EXACT, err_msg=name)


@pytest.mark.parametrize("name", GAE)
def test_rlax_gae_and_value_targets(x64, peers, name):
    given, expected = peers
    logp, traj = stored_batch(given)
    options = dict(zip(("discount", "gae_lambda"), GAE[name], strict=True))
    A = advantage("gae", traj.reward, traj, **options)
    np.testing.assert_allclose(A, expected[f"gae_{name}"], rtol=0, atol=EXACT)
    total, count = value_loss(logp, traj, **options)  # log-probs as values: any numbers will do
    squares = (given["logp"] - expected[f"target_{name}"]) ** 2
    assert float(total / count) == pytest.approx(0.5 * squares.mean(), rel=EXACT)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [("clipped", "ppo", {}), ("policy_gradient", "surrogate", {"aggregation": "token_mean"})],
)
def test_rlax_policy_losses(x64, peers, name, kind, options):
    given, expected = peers
    logp, traj = stored_batch(given)
    f = resolve(kind, {"advantage": jnp.asarray(given["advantage"]), **options})
    loss, slope = quick_jit(jax.value_and_grad(lambda x: jnp.divide(*f(x, traj))))(logp)
    np.testing.assert_allclose(loss, expected[name], rtol=0, atol=EXACT)
    np.testing.assert_allclose(slope, expected[f"{name}_gradient"], rtol=0, atol=EXACT)
    assert (np.asarray(slope) == 0).any() == (name == "clipped")


def test_rlax_returns(x64, peers):
    given, expected = peers
    _, traj = stored_batch(given)
    ours = advantage("returns_to_go", jnp.asarray(given["token_rewards"]), traj, discount=DISCOUNT)
    np.testing.assert_allclose(ours, expected["returns"], rtol=0, atol=EXACT)


def test_rlax_entropy(x64, peers):
    """Both tokens of 8 contexts with their probabilities: the estimate and its gradient average to the exact ones."""
    given, expected = peers
    logp, traj = stored_batch(given)
    first = jnp.zeros((16, 9), bool).at[:, 0].set(True)
    law = jax.tree.map(lambda x: jnp.concatenate([x, x]), traj).replace(sample_mask=first, decision_mask=~first & first)

    def ours(x):
        both = jnp.concatenate([x, jnp.log1p(-jnp.exp(x))])
        f, weight = resolve("entropy_bonus"), jax.lax.stop_gradient(jnp.exp(both)) / 8
        return jnp.divide(*f(jnp.broadcast_to(both[:, None], (16, 9)), law.replace(weight=weight)))

    loss, slope = quick_jit(jax.value_and_grad(ours))(logp[:, 0])
    np.testing.assert_allclose(loss, expected["entropy"], rtol=0, atol=EXACT)
    np.testing.assert_allclose(slope, expected["entropy_gradient"][:, 0], rtol=0, atol=EXACT)

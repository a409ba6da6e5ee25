"""Networks of one's own as policies: Flax Linen, Flax NNX, and any function."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.policies import FunctionPolicy, log_probs, sample, to_trajectories

V, L, T, P = 3, 2, 2, 4
PROMPT = jnp.asarray([[0, 1, 2, 1], [2, 2, 0, 1]], jnp.int32)
ANSWERS = jnp.asarray([[[0, 1], [2, 2]], [[1, 1], [0, 2]]], jnp.int32)
nnx: Any = None
try:
    from flax import nnx
except Exception as error:  # some releases of Flax cannot import it on some releases of JAX
    NO_NNX = f"flax.nnx does not import here: {error!r}"
else:
    NO_NNX = ""


def laws(dense_sample, dense_decision, prompt, answers):
    """Answers from the prompt alone; the decision from prompt and answer."""
    (B, K, _), x = answers.shape, prompt.astype(jnp.float32)
    both = jnp.concatenate([jnp.repeat(x[:, None], K, axis=1), answers.astype(jnp.float32)], axis=-1)
    sample = dense_sample(x).reshape(B, 1, L, V)
    return jnp.broadcast_to(sample, (B, K, L, V)), dense_decision(both)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, prompt, answers):
        return laws(nn.Dense(L * V, name="sample"), nn.Dense(2, name="decision"), prompt, answers)


def by_linen() -> SimpleNamespace:
    net = LinenNet()
    policy = FunctionPolicy(net.apply, length=L, initial=lambda key: net.init(key, PROMPT, ANSWERS))
    params = policy.init(jax.random.key(0))
    return SimpleNamespace(policy=policy, params=params, own=net.apply(params, PROMPT, ANSWERS))


def by_nnx() -> SimpleNamespace:
    if NO_NNX:
        pytest.skip(NO_NNX)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.sample, self.decision = nnx.Linear(P, L * V, rngs=rngs), nnx.Linear(P + L, 2, rngs=rngs)

        def __call__(self, prompt, answers):
            return laws(self.sample, self.decision, prompt, answers)

    net = Net(nnx.Rngs(0))
    graph, params = nnx.split(net)
    policy = FunctionPolicy(lambda params, *inputs: nnx.merge(graph, params)(*inputs), length=L)
    return SimpleNamespace(policy=policy, params=params, own=net(PROMPT, ANSWERS))


@pytest.mark.parametrize("made", [by_linen, by_nnx])
def test_a_flax_module_is_a_policy(made):
    """Its laws are the module's, it is sampled from, and an objective has its components on it."""
    policy, params, own = vars(made()).values()
    for got, logits in zip(policy.log_dists(params, PROMPT, ANSWERS), own, strict=True):
        np.testing.assert_allclose(got, jax.nn.log_softmax(logits), rtol=0, atol=1e-6)

    @jax.jit
    def sampled(params):
        rounds = sample(policy, params, PROMPT, jax.random.key(1), rounds=T)
        traj = to_trajectories(PROMPT, rounds, jnp.asarray([[0.0, 1.0], [1.0, 0.0]]))
        found = component_gradients(policy, params, traj, resolve("reinforce", {"baseline": "none"}))
        return traj, log_probs(policy, params, traj), found

    traj, logp, found = sampled(params)
    assert traj.old_logp is not None
    np.testing.assert_allclose(traj.old_logp, logp, rtol=0, atol=1e-5)

    def loss(params):
        return -jnp.divide(*resolve("reinforce", {"baseline": "none"})(log_probs(policy, params, traj), traj))

    whole = jax.jit(jax.grad(loss))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), found.total, whole(params))
    assert jax.tree.structure(found.sample) == jax.tree.structure(params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found.sample)) > 0


def test_without_a_function_for_parameters_there_are_none():
    with pytest.raises(InputError, match="initial: received None"):
        FunctionPolicy(lambda *_: None, length=L).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("returned", "received"),
    [
        (jnp.zeros((2, T, L, V)), "ArrayImpl"),
        ((jnp.zeros((2, T, L, V)),) * 3, "tuple"),
        ((jnp.zeros((2, T, L, V)), jnp.zeros((2, T, 3))), ((2, T, L, V), (2, T, 3))),
        ((jnp.zeros((2, L, V)), jnp.zeros((2, T, 2))), ((2, L, V), (2, T, 2))),
    ],
)
def test_a_function_that_returns_something_else_is_refused(returned, received):
    policy = FunctionPolicy(lambda *_: returned, length=L)
    with pytest.raises(InputError) as error:
        policy.log_dists({}, PROMPT, ANSWERS)
    assert (error.value.field, error.value.received) == ("apply of the policy", received)
    assert error.value.allowed == "two arrays f[2, 2, 2, V] and f[2, 2, 2]"

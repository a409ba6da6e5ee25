"""Random instances: their numbers, and the decider that can be told anything on top of a policy's own law."""

import importlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.policies import SaturatedPolicy, log_probs
from proofs_check import runner
from proofs_check.closed_forms import by_decider
from proofs_check.extremes import EXTREMES, RARE_MASS, SHARPNESS, at_extreme, kinds
from proofs_check.instances import Numbers, Setting, Shape, draw, draw_with_free_decider, enumerated, normal

pytestmark = pytest.mark.usefixtures("x64")
SHAPES = (
    Shape(rounds=3, length=1, vocabulary=2, prompts=2, shared=3),
    Shape(rounds=2, length=2, vocabulary=2, history="none", network=True),
)


def test_numbers_have_their_moments():
    x = np.asarray(normal(jax.random.key(0), 40, 1000))
    # Five standard deviations of each mean of 40,000.
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 5 * (variance / x.size) ** 0.5
    u = np.asarray(Numbers(jax.random.key(1), 0, 40_000).uniform(40_000))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / u.size) ** 0.5


def test_numbers_are_handed_out_once():
    numbers = Numbers(jax.random.key(2), 5, 3)
    parts = [numbers.normal(2), numbers.normal(3), numbers.uniform(2), numbers.uniform()]
    assert [x.shape for x in parts] == [(2,), (3,), (2,), ()]
    assert np.unique(np.concatenate([np.ravel(x) for x in parts])).size == 8
    with pytest.raises(AssertionError):
        numbers.normal(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_free_decider_adds_its_logits_context_by_context(shape):
    @jax.jit
    def laws(key):
        plain, free = draw(key, shape), draw_with_free_decider(key, shape)
        process = free.process
        at_zero = {**free.params, "decision": jnp.zeros_like(free.params["decision"])}
        tables = [process.tables(enumerated(free.replace(params=p))[1]) for p in (free.params, at_zero)]
        base = free.replace(policy=plain.policy.replace(base=free.policy.base.base), params=free.params["base"])
        odds = [by_decider(process, t.log_stop) - by_decider(process, t.log_resample) for t in tables]
        return odds, tables[1], process.tables(enumerated(base)[1]), free.params["decision"]

    (with_logits, without), at_zero, base, decide = laws(jax.random.key(3))
    # Differences of log-softmaxes of numbers of order one.
    np.testing.assert_allclose(with_logits - without, decide[..., 0] - decide[..., 1], atol=1e-13)
    for a, b in zip(jax.tree.leaves(at_zero), jax.tree.leaves(base), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_a_saturated_decider_is_left_alone():
    instance = draw_with_free_decider(jax.random.key(4), Shape(rounds=2, length=1, vocabulary=2))
    assert isinstance(instance.policy.base, SaturatedPolicy)
    assert set(instance.params) == {"sample", "decision"}


def ties(setting):
    """f[Q, A^(T-1), A]: r - V + c at the decisions of round T - 1; values of the library count costs already paid."""
    process, T = setting.process, setting.shape.rounds
    r = process.reward_table[:, None, :] - process.cost * (T - 2)
    return r - setting.values.V[T - 1].reshape(r.shape[0], -1, r.shape[-1])


@pytest.mark.parametrize("cost", [True, False])
def test_extremes(cost):
    shape = Shape(rounds=3, length=1, vocabulary=2, prompts=2, graded=not cost, cost=cost)
    names = kinds(shape)
    assert names == tuple(name for name in EXTREMES if name != "dear" or cost)

    def seen(number):
        instance = at_extreme(draw(jax.random.key(6), shape), number, names)
        ratio = enumerated(instance)[1] - log_probs(instance.policy, instance.reference, instance.process.support())
        return instance.process, instance.params, ties(Setting(instance)), jnp.max(jnp.abs(ratio))

    at = jax.tree.map(np.asarray, jax.jit(jax.vmap(seen))(jnp.arange(-1, len(names))))
    found = {name: jax.tree.map(lambda x, i=i: x[i], at) for i, name in enumerate([None, *names])}
    process, params, distance, ratio = found[None]
    assert 0 <= process.cost < 1
    assert process.prompt_law.min() > 0.01
    assert np.abs(distance).min() > 1e-3
    assert ratio > 0.1
    sharp = found["sharp"][1]
    for name in params:
        np.testing.assert_allclose(sharp[name], SHARPNESS * params[name])
    assert 0.1 < found["sharp"][3] < 10  # the reference is as far as before
    np.testing.assert_allclose(found["rare"][0].prompt_law, [RARE_MASS, 1 - RARE_MASS], rtol=1e-15)
    if cost:
        assert found["dear"][0].cost >= 1
    tied, _, distance, _ = found["tie"]
    assert np.abs(distance).min() < 1e-15
    assert (tied.cost > 0) == cost
    assert ((tied.reward_table >= 0) & (tied.reward_table <= 1)).all()
    assert found["same"][3] == 0
    # Nothing else moves.
    for name in names:
        for field in ("prompt_law", "reward_table", "cost"):
            moved = not np.array_equal(getattr(found[name][0], field), getattr(process, field))
            own = {"rare": "prompt_law", "dear": "cost", "tie": "cost" if cost else "reward_table"}.get(name)
            assert moved == (field == own), (name, field)


@pytest.mark.parametrize("own", [None, "3"])
def test_blas_is_loaded_with_one_thread_unless_told_otherwise(monkeypatch, own):
    seen = []
    monkeypatch.delitem(sys.modules, "scipy.linalg", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: seen.append((name, os.environ[runner.BLAS_THREADS])))
    monkeypatch.delenv(runner.BLAS_THREADS, raising=False)
    if own is not None:
        monkeypatch.setenv(runner.BLAS_THREADS, own)
    runner._load_blas()
    assert seen == [("scipy.linalg", own or "1")]
    assert os.environ.get(runner.BLAS_THREADS) == own

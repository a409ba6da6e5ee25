"""Random instances: their numbers, and the decider that can be told anything on top of a policy's own law."""

import importlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.policies import SaturatedPolicy
from proofs_check import runner
from proofs_check.closed_forms import by_decider
from proofs_check.instances import Numbers, Shape, draw, draw_with_free_decider, enumerated, normal

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

"""Measures of the two components by hand, where nothing is correct or wrong, and of a policy's own samples."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.evaluation.components import component_statistics, measure
from dsjax.evaluation.samples import draw_samples, evaluation_sets, judge
from dsjax.policies.transformer import TransformerPolicy
from dsjax.statistics import Bootstrap
from dsjax.tasks import Addition

EXACT = 1e-13  # sums of some tens of terms of size <= 1


def measured(right, stop, resamples=0, history="none"):
    return Bootstrap(len(right), resamples).estimates(component_statistics(right, stop, history))


def values(found):
    return {name: e.value for name, e in found.items()}


def test_measures_at_hand_computed_values():
    """Two problems, T = 2. Stop probabilities: right 0.9, 0.5, wrong 0.2, 0.5.

    p = 2/4; a = (0.9 + 0.5)/2; b = (0.2 + 0.5)/2; pairs: 0.9 beats both, 0.5 beats 0.2 and ties 0.5, so 3.5 of 4.
    Problem 0 (right at 0.9, then wrong): kept right 0.9, rounds 0.9 + 2 x 0.1. Problem 1 (wrong at 0.5, then right):
    kept right 0.5, rounds 1.5. The second decisions, 0.2 and 0.5, have no effect on either.
    """
    right = np.array([[True, False], [False, True]])
    stop = np.array([[0.9, 0.2], [0.5, 0.5]])
    expected = {"p": 0.5, "a": 0.7, "b": 0.35, "youden": 0.35, "auroc": 0.875}
    expected |= {"accuracy": 0.7, "gain": 0.2, "rounds": 1.3}
    for resamples in (0, 50):
        assert values(measured(right, stop, resamples)) == pytest.approx(expected, abs=EXACT)
    # With history p, a, b and AUROC are about the first samples: right at 0.9, wrong at 0.5.
    first = {**expected, "p": 0.5, "a": 0.9, "b": 0.5, "youden": 0.4, "auroc": 1.0}
    assert values(measured(right, stop, history="full")) == pytest.approx(first, abs=EXACT)
    # Problem 1 twice: a is 0.5, gain 0.5 - 0.5.
    doubled = {k: s(np.array([[0.0, 2.0]]))[0] for k, s in component_statistics(right, stop).items()}
    again = {"p": 0.5, "a": 0.5, "b": 0.5, "youden": 0.0, "auroc": 0.5, "accuracy": 0.5, "gain": 0.0, "rounds": 1.5}
    assert doubled == pytest.approx(again, abs=EXACT)


def test_a_component_changes_only_what_is_its_own():
    """A decider that always stops: accuracy p of the first round, one round, whatever the sampler."""
    rng = np.random.default_rng(0)
    right = rng.random((30, 3)) < 0.4
    m = values(measured(right, np.ones((30, 3))))
    assert (m["a"], m["b"], m["rounds"], m["auroc"]) == (1, 1, 1, 0.5)
    assert m["accuracy"] == pytest.approx(right[:, 0].mean(), abs=EXACT)
    assert m["p"] == pytest.approx(right.mean(), abs=EXACT)


@pytest.mark.parametrize("all_right", [False, True], ids=["nothing correct", "nothing wrong"])
def test_what_does_not_exist_is_none_in_strict_json(all_right):
    right, stop = np.full((6, 3), all_right), np.random.default_rng(0).random((6, 3))
    out = {name: e.to_json() for name, e in measured(right, stop, 20).items()}
    json.dumps(out, allow_nan=False)
    absent = {"value": None, "low": None, "high": None}
    assert out["b" if all_right else "a"] == out["auroc"] == absent
    assert out["a" if all_right else "b"]["value"] == pytest.approx(stop.mean(), abs=EXACT)
    for name, value in (("p", float(all_right)), ("accuracy", float(all_right)), ("gain", 0.0)):
        assert out[name] == pytest.approx({"value": value, "low": value, "high": value}, abs=EXACT)


TASK = Addition(digits=1)
POLICY = TransformerPolicy.for_task(TASK, 2, layers=1, width=8, heads=2, mlp_ratio=1)


def test_samples_are_scored_and_judged_by_the_policy():
    """The same decider gives its own answers the same verdict while drawing and afterwards; another one does not."""
    shapes = jax.eval_shape(POLICY.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    one, other = (jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes) for _ in "ab")
    problems = TASK.training_problems(jax.random.key(0), 64)
    drawn, own = draw_samples(POLICY, one, TASK, problems, jax.random.key(1), 2)
    assert drawn.answers.shape == (64, 2, TASK.length)
    gold = np.asarray(problems.answer)[:, None]
    np.testing.assert_array_equal(drawn.right, (np.asarray(drawn.answers) == gold).all(-1))
    assert 0 < np.asarray(drawn.right).sum() < 128
    # One layer in float32, sums of some ten terms in two orders: some 100 eps.
    np.testing.assert_allclose(judge(POLICY, one, drawn), own, rtol=0, atol=2e-5)
    assert np.abs(np.asarray(judge(POLICY, other, drawn)) - np.asarray(own)).max() > 0.01
    assert (np.asarray(own) <= 0).all()
    again, _ = draw_samples(POLICY, one, TASK, problems, jax.random.key(1), 2)
    np.testing.assert_array_equal(again.answers, drawn.answers)
    expected = measured(np.asarray(drawn.right), np.exp(np.asarray(own, float)), 50)
    found = measure(POLICY, one, TASK, problems, jax.random.key(1), 2, 50)
    assert {k: e.to_json() for k, e in found.items()} == {k: e.to_json() for k, e in expected.items()}


def test_evaluation_sets_name_an_unknown_split():
    assert {k: v.prompt.shape[0] for k, v in evaluation_sets(TASK, ("in",), 3).items()} == {"in": 3}
    with pytest.raises(InputError, match=r"split: received 'carry'; allowed: in$"):
        evaluation_sets(TASK, ("in", "carry"), 3)

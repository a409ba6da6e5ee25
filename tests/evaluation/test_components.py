"""Measures of the two components against enumeration, by hand, and on pools where nothing is right or wrong."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.evaluation.accounting import final_accuracy, mean_rounds
from dsjax.evaluation.components import (
    Pool,
    component_estimates,
    component_statistics,
    cross_swap,
    draw_pool,
    evaluation_sets,
    expected_accuracy,
    expected_rounds,
    gain_accounting,
    judge,
    quick_measures,
)
from dsjax.policies.transformer import TransformerPolicy
from dsjax.tasks import Addition

# Sums of at most 2^5 products of at most 5 factors, all of size <= 1 (rounds: <= 5).
EXACT = 1e-13
MEASURES = ("p", "a", "b", "youden", "auroc", "accuracy", "gain", "rounds")


def enumerated(right, stop) -> tuple[np.ndarray, np.ndarray]:
    """(accuracy, rounds) of each problem, over all 2^T sequences of decisions; the last one has no effect."""
    n, T = right.shape
    accuracy, rounds = np.zeros(n), np.zeros(n)
    for i in range(n):
        for decisions in itertools.product((True, False), repeat=T):
            probability = np.prod([stop[i, t] if d else 1 - stop[i, t] for t, d in enumerate(decisions)])
            kept = decisions.index(True) if True in decisions else T - 1
            accuracy[i] += probability * right[i, kept]
            rounds[i] += probability * (kept + 1)
    return accuracy, rounds


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_accuracy_and_rounds_match_enumeration(rounds):
    rng = np.random.default_rng(rounds)
    right, stop = rng.random((20, rounds)) < 0.5, rng.random((20, rounds))
    stop[0], stop[1] = 0.0, 1.0  # never stops, always stops
    before = stop.copy()
    accuracy, used = enumerated(right, stop)
    np.testing.assert_allclose(expected_accuracy(right, stop), accuracy, rtol=0, atol=EXACT)
    np.testing.assert_allclose(expected_rounds(stop), used, rtol=0, atol=EXACT)
    np.testing.assert_array_equal(stop, before)  # arguments are left alone
    assert expected_accuracy(right, stop)[0] == right[0, -1]
    assert expected_accuracy(right, stop)[1] == right[1, 0]


def test_one_prompt_law_gives_the_closed_form():
    """All attempts of T = 3 rounds at p = 1/2, a = 0.8, b = 0.3, each once: accuracy and rounds of T10."""
    right = np.array(list(itertools.product((True, False), repeat=3)))
    stop = np.where(right, 0.8, 0.3)
    with jax.enable_x64(True):
        closed = float(final_accuracy(0.5, 0.8, 0.3, 3)), float(mean_rounds(0.5, 0.8, 0.3, 3))
    assert expected_accuracy(right, stop).mean() == pytest.approx(closed[0], abs=EXACT)
    assert expected_rounds(stop).mean() == pytest.approx(closed[1], abs=EXACT)


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
    assert quick_measures(right, np.log(stop)) == pytest.approx(expected, abs=EXACT)
    got = component_estimates(right, np.log(stop), 50)
    assert {k: got[k]["value"] for k in MEASURES} == pytest.approx(expected, abs=EXACT)
    # Problem 1 twice: a is 0.5, gain 0.5 - 0.5.
    doubled = {k: s(np.array([[0.0, 2.0]]))[0] for k, s in component_statistics(right, stop).items()}
    again = {"p": 0.5, "a": 0.5, "b": 0.5, "youden": 0.0, "auroc": 0.5, "accuracy": 0.5, "gain": 0.0, "rounds": 1.5}
    assert doubled == pytest.approx(again, abs=EXACT)


def test_a_component_changes_only_what_is_its_own():
    """A decider that always stops: accuracy p of the first round, one round, whatever the sampler."""
    rng = np.random.default_rng(0)
    right = rng.random((30, 3)) < 0.4
    m = quick_measures(right, np.zeros((30, 3)))
    assert (m["a"], m["b"], m["rounds"], m["auroc"]) == (1, 1, 1, 0.5)
    assert m["accuracy"] == pytest.approx(right[:, 0].mean(), abs=EXACT)
    assert m["p"] == pytest.approx(right.mean(), abs=EXACT)


@pytest.mark.parametrize("all_right", [False, True], ids=["nothing right", "nothing wrong"])
def test_degenerate_pools_give_none_and_strict_json(all_right):
    right = np.full((6, 3), all_right)
    log_stop = np.log(np.random.default_rng(0).random((6, 3)))
    out = component_estimates(right, log_stop, 20)
    json.dumps(out, allow_nan=False)
    absent = {"value": None, "low": None, "high": None}
    assert out["b" if all_right else "a"] == absent
    assert out["auroc"] == absent
    assert out["roc"] is None
    assert out["a" if all_right else "b"]["value"] == pytest.approx(np.exp(log_stop).mean(), abs=EXACT)
    for name, value in (("p", float(all_right)), ("accuracy", float(all_right)), ("gain", 0.0)):
        assert out[name] == pytest.approx({"value": value, "low": value, "high": value}, abs=EXACT)
    json.dumps(quick_measures(right, log_stop), allow_nan=False)


def pool(right: np.ndarray) -> Pool:
    n, T = right.shape
    return Pool(np.zeros((n, 1), np.int32), np.zeros((n, T, 1), np.int32), right)


def random_models(seed: int, names=("base", "arm", "other"), n: int = 40, rounds: int = 3, p: float = 0.5):
    rng = np.random.default_rng(seed)
    pools = {name: pool(rng.random((n, rounds)) < p) for name in names}
    verdicts = {(s, d): np.log(rng.random((n, rounds))).astype(np.float32) for s in names for d in names}
    return pools, verdicts


def test_the_diagonal_of_the_swap_is_each_models_own_evaluation():
    pools, verdicts = random_models(0)
    matrix = cross_swap(pools, verdicts, 50, seed=3)
    for s in pools:
        own = component_estimates(np.asarray(pools[s].right), verdicts[s, s], 50, seed=3)
        assert matrix[s][s] == own["accuracy"]
        for d in pools:  # rows are samplers: their answers, the column's verdicts
            accuracy = enumerated(pools[s].right, np.exp(verdicts[s, d].astype(float)))[0].mean()
            assert matrix[s][d]["value"] == pytest.approx(accuracy, abs=EXACT)
    assert len({cell["value"] for row in matrix.values() for cell in row.values()}) == 9


def test_shapley_parts_sum_to_the_change():
    pools, verdicts = random_models(1)
    out = gain_accounting(pools, verdicts, "arm", "base", 50)
    matrix = cross_swap(pools, verdicts, 50)
    v: Any = {(s, d): matrix[s][d]["value"] for s in pools for d in pools}
    change = v["arm", "arm"] - v["base", "base"]
    assert abs(change) > 1e-3
    parts = {k: e["value"] for k, e in out["accuracy"].items()}
    assert parts["sampler"] + parts["decider"] == pytest.approx(change, abs=EXACT)
    assert out["total_accuracy"]["value"] == pytest.approx(change, abs=EXACT)
    # The mean over both orders, written out.
    one = v["arm", "base"] - v["base", "base"], v["arm", "arm"] - v["base", "arm"]
    assert parts["sampler"] == pytest.approx(sum(one) / 2, abs=EXACT)
    assert abs(one[0] - one[1]) > 1e-3
    # Log-odds of accuracies in (0.2, 0.8): condition number below 7.
    logit = {k: np.log(x / (1 - x)) for k, x in v.items()}
    parts = {k: e["value"] for k, e in out["log_odds"].items()}
    assert out["base_log_odds"] == pytest.approx(logit["base", "base"], abs=10 * EXACT)
    assert out["arm_log_odds"] == pytest.approx(logit["arm", "arm"], abs=10 * EXACT)
    assert sum(parts.values()) == pytest.approx(out["arm_log_odds"] - out["base_log_odds"], abs=10 * EXACT)
    one = logit["base", "arm"] - logit["base", "base"], logit["arm", "arm"] - logit["arm", "base"]
    assert parts["decider"] == pytest.approx(sum(one) / 2, abs=10 * EXACT)
    for e in (*out["accuracy"].values(), *out["log_odds"].values(), out["total_accuracy"]):
        assert e["low"] < e["value"] < e["high"]


def test_an_arm_equal_to_base_gains_nothing_for_sure():
    """Paired resamples: the intervals of an unchanged component have no width."""
    pools, verdicts = random_models(2, ("base",))
    pools["arm"] = pools["base"]
    verdicts |= {(s, d): verdicts["base", "base"] for s in pools for d in pools}
    out = gain_accounting(pools, verdicts, "arm", "base", 50)
    zero = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert out["accuracy"] == out["log_odds"] == {"sampler": zero, "decider": zero}
    assert out["total_accuracy"] == zero
    assert out["limit_identity"] == {"sampler": 0.0, "decider": 0.0}


def test_a_component_that_stays_has_no_part():
    pools, verdicts = random_models(3, ("base", "arm"))
    same = {**verdicts, ("base", "arm"): verdicts["base", "base"], ("arm", "arm"): verdicts["arm", "base"]}
    out = gain_accounting(pools, same, "arm", "base", 20)
    for measure in ("accuracy", "log_odds"):
        assert out[measure]["decider"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert abs(out[measure]["sampler"]["value"]) > 1e-3


def test_the_limit_identity_at_hand_computed_values():
    """base: p = 1/2, a = 0.6, b = 0.3; arm: p = 3/4, a = 0.9, b = 0.1 (pooled)."""
    right = {"base": np.array([[True, False]] * 4), "arm": np.array([[True, True, True, False]]).T}
    right["arm"] = np.repeat(right["arm"], 2, axis=1)
    stops = {"base": (0.6, 0.3), "arm": (0.9, 0.1)}
    pools = {s: pool(right[s]) for s in right}
    verdicts = {(s, d): np.log(np.where(right[s], *stops[d])) for s in right for d in right}
    got = gain_accounting(pools, verdicts, "arm", "base", 20)["limit_identity"]
    assert got == pytest.approx({"sampler": np.log(3), "decider": np.log(9 / 2)}, abs=1e-12)


@pytest.mark.parametrize("p", [0.0, 1.0], ids=["nothing right", "nothing wrong"])
def test_log_odds_that_do_not_exist_are_none(p):
    """Stop probabilities that do not add up to 1 exactly: 1 - accuracy is then 1e-16 and no measure of anything."""
    pools, verdicts = random_models(4, ("base", "arm"), n=50, rounds=4, p=p)
    if p == 1:
        stop = np.exp(verdicts["base", "base"].astype(float))
        dust = np.flatnonzero(expected_accuracy(pools["base"].right, stop) < 1)
        pools = {name: pool(np.full((20, 4), True)) for name in pools}
        verdicts = dict.fromkeys(verdicts, np.repeat(verdicts["base", "base"][dust[:1]], 20, axis=0))
    out = gain_accounting(pools, verdicts, "arm", "base", 20)
    json.dumps(out, allow_nan=False)
    assert out["base_log_odds"] is None
    assert out["arm_log_odds"] is None
    assert out["limit_identity"] is None
    for part in ("sampler", "decider"):
        assert out["log_odds"][part] == {"value": None, "low": None, "high": None}
        assert out["accuracy"][part]["value"] == pytest.approx(0, abs=EXACT)


def test_a_decider_that_never_keeps_a_wrong_answer_has_no_identity():
    """b = 0: log(a/b) is infinite, the measured accuracies are not."""
    pools, verdicts = random_models(5, ("base", "arm"))
    verdicts["arm", "arm"] = np.where(pools["arm"].right, 0.0, -np.inf)
    out: dict[str, Any] = gain_accounting(pools, verdicts, "arm", "base", 20)
    json.dumps(out, allow_nan=False)
    assert out["limit_identity"] is None
    assert out["log_odds"]["decider"]["value"] > 0


TASK = Addition(digits=1)
POLICY = TransformerPolicy.for_task(TASK, 2, layers=1, width=8, heads=2, mlp_ratio=1)


def test_pools_are_scored_and_judged_by_the_policy():
    """The same decider gives its own answers the same verdict while drawing and afterwards; another one does not."""
    shapes = jax.eval_shape(POLICY.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    one, other = (jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes) for _ in "ab")
    problems = TASK.training_problems(jax.random.key(0), 64)
    drawn, own = draw_pool(POLICY, one, TASK, problems, jax.random.key(1), 2)
    assert drawn.answers.shape == (64, 2, TASK.length)
    gold = np.asarray(problems.answer)[:, None]
    np.testing.assert_array_equal(drawn.right, (np.asarray(drawn.answers) == gold).all(-1))
    assert 0 < np.asarray(drawn.right).sum() < 128
    # One layer in float32, sums of some ten terms in two orders: some 100 eps.
    np.testing.assert_allclose(judge(POLICY, one, drawn), own, rtol=0, atol=2e-5)
    assert np.abs(np.asarray(judge(POLICY, other, drawn)) - np.asarray(own)).max() > 0.01
    assert (np.asarray(own) <= 0).all()
    again, _ = draw_pool(POLICY, one, TASK, problems, jax.random.key(1), 2)
    np.testing.assert_array_equal(again.answers, drawn.answers)


def test_evaluation_sets_name_an_unknown_split():
    assert {k: v.prompt.shape[0] for k, v in evaluation_sets(TASK, ("in",), 3).items()} == {"in": 3}
    with pytest.raises(InputError, match=r"split: received 'carry'; allowed: in$"):
        evaluation_sets(TASK, ("in", "carry"), 3)

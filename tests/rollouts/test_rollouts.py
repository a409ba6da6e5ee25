"""Rollouts from elsewhere: the file, its errors, numbers by hand, and against the library's exact attribution."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax import statistics
from dsjax.attribution import attribute, coefficients, loss_of, trajectory_gradients
from dsjax.cli.attribute import attribute as command
from dsjax.errors import InputError
from dsjax.io import write_arrays
from dsjax.objectives import OBJECTIVES, resolve
from dsjax.policies import log_probs
from dsjax.rollouts import attribute_rollouts
from dsjax.rollouts.arrays import ARRAYS, FORMAT, REQUIRED
from dsjax.rollouts.diagnosis import EQUAL, _gradients
from dsjax.rollouts.format import check, read, square_bounds, unknown
from dsjax.trajectories import RESAMPLE, STOP, Trajectories
from tests.cases import TIGHT, Shape, enumerated, make_case, ragged_batch
from tests.cli.plain import assert_plain
from tests.objectives.reference import quick_jit

ROOT = Path(__file__).parents[2]


def arrays_of(logp: jax.Array, traj: Trajectories, **more) -> dict[str, Any]:
    """NumPy arrays of a `Trajectories`, NaN outside of the masks."""
    drawn = np.asarray(traj.mask)
    out: dict = {"logp": np.where(drawn, logp, np.nan), "decision_choices": 2}
    for name in ("old_logp", "ref_logp", "values"):
        x = getattr(traj, name)
        if x is not None:
            out[name] = np.where(drawn, x, np.nan)
    for name in ("sample_mask", "decision_mask", "reward", "weight", "group", "round"):
        out[name] = np.asarray(getattr(traj, name))
    out["decision"] = np.where(np.asarray(traj.decision_mask), np.asarray(traj.tokens), -1)
    return {**out, **more}


def tiny(**change) -> dict[str, Any]:
    """Two trajectories of one prompt, answers of 2 and 1 tokens; slots: answer, answer, decision, answer.

    The first is STOPped at once (return 1), the second RESAMPLEd, then cut off (return 0).
    """
    nan = np.nan
    out = {
        "logp": np.log([[0.5, 0.25, 0.8, nan], [0.5, nan, 0.4, 0.1]]),
        "sample_mask": np.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool),
        "decision_mask": np.array([[0, 0, 1, 0], [0, 0, 1, 0]], bool),
        "reward": np.array([1.0, 0.0]),
        "decision_choices": 2,
    }
    return {name: x for name, x in {**out, **change}.items() if x is not None}


# Numbers by hand.


def test_reinforce_by_hand():
    """k = (1, 1, 1 | -) and (0, -, 0, 0): means over 4 sampling tokens, 3 answers, 2 decisions, 2 trajectories."""
    found = attribute_rollouts("reinforce", **tiny(), vocabulary=5)
    np.testing.assert_array_equal(found.coefficients, [[0.5, 0.5, 0.5, 0], [0, 0, 0, 0]])
    values = {u: {k: e.value for k, e in row.items()} for u, row in found.conventions.items()}
    assert values["token"]["sample"] == values["token"]["signed_sample"] == 2 / 4
    assert values["factor"]["sample"] == pytest.approx(1 / 3, rel=1e-15)
    assert values["factor"]["decision"] == values["token"]["decision"] == 1 / 2
    assert values["factor"]["share"] == pytest.approx(0.5 / (0.5 + 1 / 3), rel=1e-15)
    assert values["block"]["sample"] == 1
    assert values["block"]["decision"] == 0.5
    assert values["block"]["share"] == pytest.approx(1 / 3, rel=1e-15)
    assert values["block"]["one_sided_sample"] == values["block"]["one_sided_decision"] == 1
    assert found.balance == {
        "pushed_trajectories": 1,
        "largest_spread": 0.0,
        "one_coefficient_per_trajectory": True,
        "tolerance": EQUAL,
    }
    # Squared score norms: decision 2 (0.2)^2; sampler (0.5^2 + 0.75^2) times 5/4 to 2. Mean over two trajectories.
    logit = found.logit_space
    assert logit["decision"]["lower"].value == pytest.approx(2 * 0.2**2 / 2, rel=1e-12)
    assert logit["decision"]["upper"].to_json() == logit["decision"]["lower"].to_json()  # NaN is not itself
    assert logit["sample"]["lower"].value == pytest.approx((0.25 + 0.5625) * 5 / 4 / 2, rel=1e-12)
    assert logit["sample"]["upper"].value == pytest.approx((0.25 + 0.5625) * 2 / 2, rel=1e-12)
    assert logit["share"]["lower"].value == pytest.approx(0.04 / (0.04 + 0.8125), rel=1e-12)
    assert logit["share"]["upper"].value == pytest.approx(0.04 / (0.04 + 0.8125 * 5 / 8), rel=1e-12)
    assert [logit[q]["status"] for q in ("sample", "decision", "share")] == ["bound", "available", "bound"]


def test_signs_by_hand():
    """SFT pushes up whatever was drawn: on STOP in a success, on RESAMPLE in a failure. A centred reward does not."""
    sft = attribute_rollouts("sft", **tiny())
    k = 2 / 6  # B/N
    assert sft.decisions["STOP"]["push_on_stop_logit"] == pytest.approx(k * 0.2, rel=1e-12)
    assert sft.decisions["RESAMPLE"]["push_on_stop_logit"] == pytest.approx(-k * 0.6, rel=1e-12)
    assert [sft.decisions[n]["pushed_up"] for n in ("STOP", "RESAMPLE")] == [1, 1]
    assert sft.outcome["STOP"]["agrees"].value == 1
    assert sft.outcome["RESAMPLE"]["disagrees"].value == 1
    assert sft.outcome["all"]["agrees"].value == 0.5
    block = sft.conventions["block"]
    assert block["signed_sample"].value == pytest.approx(4 / 6, rel=1e-12)
    assert block["one_sided_sample"].value == pytest.approx(1, rel=1e-12)
    rloo = attribute_rollouts("rloo", **tiny(group=np.array([3, 3])))
    assert rloo.outcome["all"]["agrees"].value == 1
    assert rloo.decisions["RESAMPLE"]["pushed_down"] == 1
    assert rloo.decisions["RESAMPLE"]["mean_coefficient"] == -1
    reinforce = attribute_rollouts("reinforce", **tiny())
    assert reinforce.outcome["RESAMPLE"]["no push"].value == 1
    assert attribute_rollouts("sft", success=-1.0, **tiny()).outcome["all"]["agrees"].value == 1


def test_counts_by_hand():
    counts = attribute_rollouts("sft", **tiny()).rollouts
    assert counts["answers"] == 3
    assert counts["answer_length_quantiles"] == [1, 1, 1, 2, 2]
    assert counts["answer_length_mean"] == pytest.approx(4 / 3)
    assert (counts["ended_by_stop"], counts["ended_by_resample"], counts["ended_without_decision"]) == (1, 0, 1)
    assert counts["decisions_per_trajectory"] == 1
    assert counts["reward_variance"] == 0.25
    cut = tiny(
        sample_mask=np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool), decision=np.array([[9, 9, 0, 9], [9, 9, 1, 9]])
    )
    assert attribute_rollouts("sft", **cut).rollouts["ended_by_resample"] == 1


def test_tokens_of_one_trajectory_that_differ_are_reported():
    found = attribute_rollouts("sft", {"decision_weight": 4.0}, **tiny())
    assert found.balance["largest_spread"] == pytest.approx(3 / 4)
    assert found.balance["one_coefficient_per_trajectory"] is False
    # An answer's coefficient is the mean over its tokens: it can cancel where the tokens do not.
    mixed = attribute_rollouts(first_token_up, **tiny())
    assert mixed.conventions["factor"]["sample"].value == pytest.approx(2 / 3)
    assert mixed.conventions["token"]["sample"].value == 1
    block = mixed.conventions["block"]
    assert (block["one_sided_sample"].value, block["one_sided_decision"].value) == (0, -1)


def first_token_up(logp_BxS: jax.Array, traj: Trajectories):
    """k = 1 in the first slot, -1 elsewhere."""
    sign_S = jnp.where(jnp.arange(logp_BxS.shape[1]) == 0, 1.0, -1.0)
    return -jnp.sum(jnp.where(traj.mask, traj.weight[:, None] * sign_S[None] * logp_BxS, 0.0)), jnp.sum(traj.weight)


# Against the library.


@pytest.fixture(scope="module")
def ragged():
    """A batch with recorded log-probs, and (coefficients, loss) of every registered objective on it."""
    with jax.enable_x64(True):
        logp, traj = ragged_batch()
        traj = traj.replace(values=jnp.asarray(np.random.default_rng(5).random(logp.shape)))
        found = {name: resolve(name) for name in OBJECTIVES}
        ask = quick_jit(lambda x, t: {n: (coefficients(f, x, t), loss_of(f, x, t)) for n, f in found.items()})
        return arrays_of(logp, traj), jax.device_get(ask(logp, traj))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_coefficients_are_those_of_the_library(ragged, name):
    """Every registered objective, on a ragged batch; NaN outside of the masks is harmless."""
    arrays, expected = ragged
    found = attribute_rollouts(name, resamples=20, **arrays)
    np.testing.assert_allclose(found.coefficients, expected[name][0], rtol=0, atol=TIGHT)
    assert found.loss == pytest.approx(float(expected[name][1]), abs=TIGHT)


ENUMERATED = {"reinforce": {}, "sft": {"decision_weight": 2.0}, "own_token_kl": {}, "trajectory_kl": {}}


def test_conventions_are_those_of_attribute(x64):
    """On all trajectories of a process, weighted by their probability, as an exact law and as a file."""
    case = make_case(Shape(2, 2, 2, 1, "full"), seed=3)
    traj = enumerated(case.process, case.policy, case.params)
    logp = traj.old_logp
    assert logp is not None
    traj = traj.replace(ref_logp=1.5 * logp)
    objectives = {name: resolve(name, options) for name, options in ENUMERATED.items()}
    exact = jax.jit(lambda p, t: {n: attribute(case.policy, p, t, f) for n, f in objectives.items()})(case.params, traj)
    for name, options in ENUMERATED.items():
        found = attribute_rollouts(name, options, resamples=20, **arrays_of(logp, traj)).conventions
        # Sums of some hundred terms of order 1, weights normalised once more.
        for (unit, column), expected in {
            ("factor", "sample"): exact[name].factor_sample,
            ("factor", "decision"): exact[name].factor_decision,
            ("token", "sample"): exact[name].token_sample,
            ("token", "decision"): exact[name].token_decision,
            ("block", "share"): exact[name].block_share,
        }.items():
            assert found[unit][column].value == pytest.approx(float(expected), rel=1e-12), (unit, column)


def score_norms(policy, params, traj: Trajectories) -> np.ndarray:
    """sqrt(1 - 2 p + sum_u pi_u^2) of every slot, from the whole softmaxes."""
    L = policy.length
    log_s, log_d = (np.asarray(x) for x in jax.jit(policy.log_dists)(params, traj.prompt, traj.answers(L)))
    power = np.concatenate([np.exp(2 * log_s).sum(-1), np.exp(2 * log_d).sum(-1)[..., None]], -1)
    p = np.exp(np.asarray(jax.jit(functools.partial(log_probs, policy))(params, traj)))
    return np.sqrt(np.where(np.asarray(traj.mask), 1 - 2 * p + power.reshape(p.shape), np.inf))


@pytest.mark.parametrize("vocabulary", [2, 3])
def test_logit_space_second_moments_are_exact_or_bounded(x64, vocabulary):
    """E|g_c|^2 of a saturated policy that sees its history, from autodiff of each trajectory's surrogate."""
    case = make_case(Shape(vocabulary, 2, 2, 1, "full"), seed=4)
    traj = enumerated(case.process, case.policy, case.params)
    logp = traj.old_logp
    assert logp is not None
    names = ("reinforce", "sft")
    gradients = jax.jit(lambda p, t: {n: trajectory_gradients(case.policy, p, t, resolve(n)) for n in names})
    arrays, norms = arrays_of(logp, traj), score_norms(case.policy, case.params, traj)
    for name, g in gradients(case.params, traj).items():
        moments = [float(jnp.sum(traj.weight * jnp.sum(x**2, -1))) for x in g]
        share = moments[1] / sum(moments)

        known = attribute_rollouts(name, resamples=20, **arrays, score_norm=norms).logit_space
        for component, moment in zip(("sample", "decision"), moments, strict=True):
            row = known[component]
            assert row["status"] == "available"
            assert row["lower"].value == row["upper"].value == pytest.approx(moment, rel=1e-11)
        assert known["share"]["lower"].value == pytest.approx(share, rel=1e-11)

        logit = attribute_rollouts(name, resamples=20, **arrays, vocabulary=vocabulary).logit_space
        assert logit["decision"]["lower"].value == pytest.approx(moments[1], rel=1e-11)
        if vocabulary == 2:
            assert {row["status"] for row in logit.values()} == {"available"}
            assert logit["sample"]["lower"].value == pytest.approx(moments[0], rel=1e-11)
            assert logit["share"]["upper"].value == pytest.approx(share, rel=1e-11)
            continue
        unknown = attribute_rollouts(name, resamples=20, **arrays).logit_space
        for quantity, value in (("sample", moments[0]), ("share", share)):
            assert logit[quantity]["status"] == "bound"
            low, high = (logit[quantity][side].value for side in ("lower", "upper"))
            assert low < value < high
            assert unknown[quantity]["lower"].value <= low
            assert unknown[quantity]["upper"].value >= high
        assert unknown["sample"]["lower"].value < logit["sample"]["lower"].value


@pytest.mark.parametrize("choices", [2, 3, 50])
def test_score_norm_bounds_hold_and_are_reached(choices):
    rng = np.random.default_rng(0)
    pi = rng.dirichlet(np.full(choices, 0.3), size=500)
    v = np.array([rng.choice(choices, p=row) for row in pi])
    p = pi[np.arange(500), v]
    square = np.sum((np.eye(choices)[v] - pi) ** 2, -1)
    low, high = square_bounds(np.log(p), choices)
    # 1 - p has an absolute error of eps; the squares one of 2 eps or less.
    assert (square >= low - 1e-15).all()
    assert (square <= high + 1e-15).all()
    assert (square_bounds(np.log(p), None)[0] <= low).all()
    if choices == 2:
        np.testing.assert_allclose(square, 2 * (1 - p) ** 2, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(low, high)
    even = np.r_[0.3, np.full(choices - 1, 0.7 / (choices - 1))]
    one = np.r_[0.3, 0.7, np.zeros(choices - 2)]
    for pi, bound in ((even, 0), (one, 1)):
        assert np.sum((np.eye(choices)[0] - pi) ** 2) == pytest.approx(
            float(square_bounds(np.log(np.array(0.3)), choices)[bound]), rel=1e-12
        )
    # The probability of the drawn token rounds to 1; log p does not.
    assert square_bounds(np.array(-1e-20), 2)[1] == pytest.approx(2e-40, rel=1e-12)


def test_own_objective_sees_tokens_and_prompt():
    seen = []

    def objective(logp_BxS, traj):
        seen.append((np.asarray(traj.tokens), np.asarray(traj.prompt), logp_BxS.dtype))
        return resolve("reinforce")(logp_BxS, traj)

    arrays = tiny(tokens=np.full((2, 4), 77), prompt=np.array([[5, 6, 7], [8, 9, 10]]))
    found = attribute_rollouts(objective, **arrays)
    assert found.objective == "objective"
    tokens, prompt, dtype = seen[0]
    np.testing.assert_array_equal(tokens, [[77, 77, STOP, 77], [77, 77, RESAMPLE, 77]])
    np.testing.assert_array_equal(prompt, arrays["prompt"])
    assert dtype == np.float64
    named = attribute_rollouts(f"{__name__}:first_token_up", **tiny())
    np.testing.assert_array_equal(named.coefficients, attribute_rollouts(first_token_up, **tiny()).coefficients)
    with pytest.raises(InputError, match="option of objective objective: received 'clip'"):
        attribute_rollouts(objective, {"clip": 0.1}, **tiny())


# Intervals.


def test_intervals_resample_groups():
    """A ratio of sums by group, resampled; wider than over trajectories, which are copies here."""
    rng = np.random.default_rng(1)
    groups, copies = 20, 8
    logp, traj = ragged_batch()
    rows = np.repeat(rng.integers(0, 8, groups), copies)
    out = ("group", "weight", "decision_choices")
    arrays: dict[str, Any] = {k: x[rows] for k, x in arrays_of(logp, traj).items() if k not in out} | {
        "decision_choices": 2
    }
    group = np.repeat(rng.permutation(1000)[:groups], copies)
    one = attribute_rollouts("sft", **arrays, group=group, resamples=200, seed=3)
    c, label = abs(one.coefficients), np.unique(group, return_inverse=True)[1]
    decision = np.bincount(label, np.where(arrays["decision_mask"], c, 0).sum(-1))
    statistic = statistics.ratio_of_sums(decision, np.bincount(label, c.sum(-1)))
    expected = statistics.estimate(statistic, groups, 200, 3)
    e = one.conventions["block"]["share"]
    assert (e.value, e.low, e.high) == pytest.approx((expected.value, expected.low, expected.high), rel=1e-12)
    alone = attribute_rollouts("sft", **arrays, resamples=200, seed=3)

    def width(found):
        e = found.conventions["block"]["share"]
        assert e.low < e.value < e.high
        return e.high - e.low

    # sqrt(8) = 2.8 in expectation.
    assert width(one) > 1.8 * width(alone)


def test_one_group_has_no_interval():
    found = attribute_rollouts("rloo", **tiny(group=np.array([1, 1])))
    e = found.conventions["block"]["share"]
    assert e
    assert np.isnan([e.low, e.high]).all()


def test_nothing_to_share_out():
    """No decision, no reward, or all coefficients 0: undefined numbers are None, and the paragraph says why."""
    bare = attribute_rollouts("sft", **tiny(decision_mask=np.zeros((2, 4), bool)))
    assert bare.to_json()["conventions"]["token"]["decision"] == {"value": None, "low": None, "high": None}
    assert bare.conventions["block"]["share"].value == 0
    assert bare.decisions["STOP"]["count"] == 0
    flat = attribute_rollouts("reinforce", **tiny(reward=np.zeros(2)))
    assert not flat.conventions["block"]["share"]
    assert flat.balance["one_coefficient_per_trajectory"] is None
    assert flat.outcome == {"success_from": None, "success_rate": None}
    assert "nothing to learn from" in flat.reading
    json.dumps([bare.to_json(), flat.to_json()], allow_nan=False)


# Gradients in the file.


def test_gradients_signal_and_noise_by_hand():
    g_s, g_d = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]]), np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 4.0]])
    found = attribute_rollouts("sft", **tiny(gradient_sample=g_s, gradient_decision=g_d)).gradients
    assert found is not None
    value = {k: e.value for k, e in found.items() if k != "estimates"}
    # Pairs: 3, 2, 6 and 1, 4, 4. Mean squares: (1 + 9 + 13)/3 and (1 + 1 + 16)/3.
    assert found["estimates"] == 3
    assert value["signal_sample"] == pytest.approx(11 / 3)
    assert value["signal_decision"] == pytest.approx(3)
    assert value["signal_share"] == pytest.approx(3 / (3 + 11 / 3))
    assert value["noise_sample"] == pytest.approx(23 / 3 - 11 / 3)
    assert value["noise_decision"] == pytest.approx(6 - 3)
    assert value["cosine_of_means"] == pytest.approx((1 * 2) / (5**0.5 * 2))


def test_gradient_signal_is_unbiased_and_its_interval_covers_it():
    """100 gradients of 50 coordinates: |E[g]|^2 = 50 (0.2)^2 = 2 under a noise of 50 each, 100 times."""
    rng = np.random.default_rng(0)
    values, covered = [], 0
    for _ in range(100):
        g = 0.2 + rng.normal(size=(100, 50))
        e = _gradients(check(tiny(gradient_sample=g, gradient_decision=g)), 60, 0)
        assert e is not None
        values.append(e["signal_sample"].value)
        covered += e["signal_sample"].low <= 2 <= e["signal_sample"].high
    assert np.mean(values) == pytest.approx(2, abs=4 * float(np.std(values)) / 10)
    assert covered > 80  # 60 resamples cover a little less than 95 %; 80 is some five standard deviations below


def test_negative_signal_is_reported_and_counts_as_none():
    g = np.array([[1.0], [-1.0]])
    found = attribute_rollouts("sft", **tiny(gradient_sample=g, gradient_decision=np.ones((2, 1)))).gradients
    assert found is not None
    assert found["signal_sample"].value == -1
    assert found["signal_share"].value == 1


# Words.


def test_availability_is_said_plainly():
    def status(**more):
        found = attribute_rollouts("sft", **tiny(**more))
        return {row["quantity"]: row["status"] for row in found.availability}, found.reading

    plain, reading = status()
    assert plain["(iv) energies E_s, E_d and their share"] == "needs gradients"
    assert plain["(iv) expected gradient: norms, share, cosine"] == "needs gradients"
    assert plain["signal to noise of each component"] == "needs gradients"
    assert plain["(iii) block share"] == "available"
    assert plain["second moment in logit space: pi_d"] == "available"
    assert plain["second moment in logit space: pi_sample"] == plain["its decision share"] == "bound"
    assert "that needs gradients" in reading
    assert "\n" not in reading
    wide, _ = status(decision_choices=1000)
    assert wide["second moment in logit space: pi_d"] == "bound"
    g = np.ones((2, 3))
    with_gradients, reading = status(gradient_sample=g, gradient_decision=g)
    assert with_gradients["(iv) expected gradient: norms, share, cosine"] == "available"
    assert with_gradients["(iv) energies E_s, E_d and their share"] == "needs gradients"
    assert "In the 2 gradients of the file" in reading


def test_push_on_stop_logit_needs_a_two_way_decision():
    assert attribute_rollouts("sft", **tiny(decision_choices=9)).decisions["STOP"]["push_on_stop_logit"] is None


# Derived arrays.


def test_rounds_and_decisions_are_derived():
    data = check(tiny())
    np.testing.assert_array_equal(data.round, [[0, 0, 0, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(data.decision[data.decision_mask], [STOP, RESAMPLE])
    np.testing.assert_array_equal(data.group, [0, 1])
    np.testing.assert_array_equal(data.weight, [0.5, 0.5])
    _, traj = ragged_batch()
    drawn, ragged = np.asarray(traj.mask), arrays_of(-jnp.ones(traj.tokens.shape), traj)
    for name in ("round", "decision"):
        ragged.pop(name)
    derived = check(ragged)
    np.testing.assert_array_equal(derived.round[drawn], np.asarray(traj.round)[drawn])
    decides = np.asarray(traj.decision_mask)
    np.testing.assert_array_equal(derived.decision[decides], np.asarray(traj.tokens)[decides])


def test_forms_that_are_accepted():
    """Integer masks, low precision, any group labels, unnormalised weights, rounding above log 1 = 0."""
    plain = tiny()
    logp = plain["logp"].copy()
    logp[0, 0] = 1e-7
    data = check(
        tiny(
            logp=logp.astype(np.float32),
            sample_mask=plain["sample_mask"].astype(np.int64),
            reward=np.array([1, 0]),
            group=np.array([-5, 2**40]),
            weight=np.array([6.0, 2.0], np.float16),
        )
    )
    assert data.logp[0, 0] == 0
    assert {np.asarray(x).dtype for x in (data.logp, data.reward, data.weight)} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(data.weight, [0.75, 0.25])
    np.testing.assert_array_equal(data.group, [0, 1])
    assert data.sample_mask.dtype == bool


def test_equal_weights_are_the_default():
    a, b = (attribute_rollouts("sft", **tiny(weight=w)) for w in (None, np.full(2, 17.0)))
    np.testing.assert_array_equal(a.coefficients, b.coefficients)


# Errors.

LOGP = tiny()["logp"]


def changed(at: tuple[int, int], value: float) -> np.ndarray:
    out = LOGP.copy()
    out[at] = value
    return out


ERRORS = {
    "missing": ({"reward": None}, "reward: received 'no such array'; allowed: f[B] return"),
    "unknown": ({"rewards": np.ones(2)}, "array: received 'rewards'; allowed: logp, sample_mask"),
    "rank of logp": ({"logp": np.zeros(4)}, r"logp.shape: received (4,); allowed: [B, S]"),
    "empty": ({"logp": np.zeros((0, 4))}, r"logp.shape: received (0, 4)"),
    "shape of a mask": ({"sample_mask": np.ones((2, 3), bool)}, "sample_mask.shape: received (2, 3); allowed: (2, 4)"),
    "shape per token": ({"old_logp": np.zeros((2, 5))}, "old_logp.shape: received (2, 5); allowed: (2, 4)"),
    "shape per trajectory": ({"reward": np.zeros(3)}, "reward.shape: received (3,); allowed: (2,)"),
    "shape of prompt": ({"prompt": np.zeros(2, int)}, "prompt.shape: received (2,); allowed: (2, Q)"),
    "dtype of a mask": (
        {"decision_mask": np.full((2, 4), 0.5)},
        "decision_mask: received 'dtype float64'; allowed: bool",
    ),
    "values of a mask": ({"decision_mask": np.full((2, 4), 2)}, "decision_mask: received 'dtype int64'; allowed: bool"),
    "dtype of logp": ({"logp": LOGP.astype(complex)}, "logp.dtype: received 'complex128'; allowed: a floating dtype"),
    "dtype of group": ({"group": np.zeros(2)}, "group.dtype: received 'float64'; allowed: an integer dtype, or words"),
    "overlap": (
        {"decision_mask": tiny()["sample_mask"]},
        "sample_mask & decision_mask: received '4 tokens of both, first at [0, 0]'; allowed: disjoint masks",
    ),
    "no token": (
        {"sample_mask": np.zeros((2, 4), bool), "decision_mask": np.zeros((2, 4), bool)},
        "received 'no token'; allowed: at least one drawn token",
    ),
    "decision of two tokens": (
        {"decision_mask": np.array([[0, 0, 1, 1], [0, 0, 0, 0]], bool)},
        "decision_mask: received 'two decision tokens side by side, first at [0, 2]'; allowed: an answer between",
    ),
    "NaN log-prob": ({"logp": changed((0, 1), np.nan)}, "logp: received 'nan at [0, 1]'; allowed: finite"),
    "infinite log-prob": ({"logp": changed((1, 3), -np.inf)}, "logp: received '-inf at [1, 3]'; allowed: finite"),
    "positive log-prob": ({"logp": changed((1, 0), 0.5)}, "logp: received '0.5 at [1, 0]'; allowed: log-probabilities"),
    "positive probabilities": ({"logp": np.exp(LOGP)}, "logp: received '0.5 at [0, 0] (and 5 more)'"),
    "NaN reference": ({"ref_logp": np.full((2, 4), np.nan)}, "ref_logp: received 'nan at [0, 0] (and 5 more)'"),
    "NaN values": ({"values": np.full((2, 4), np.nan)}, "values: received 'nan at [0, 0]"),
    "NaN reward": ({"reward": np.array([np.nan, 1])}, "reward: received 'nan at [0]'; allowed: finite numbers"),
    "negative weight": ({"weight": np.array([-1.0, 2.0])}, "weight: received '-1.0 at [0]'; allowed: >= 0"),
    "no weight": ({"weight": np.zeros(2)}, "weight: received 0.0; allowed: >= 0, not all of them 0"),
    "decision id": (
        {"decision": np.full((2, 4), 2)},
        "decision: received '2 at [0, 2] (and 1 more)'; allowed: 0 (STOP)",
    ),
    "STOP that goes on": (
        {"decision": np.zeros((2, 4), int)},
        "decision: received 'STOP = 0 at [1, 2]'; allowed: STOP only",
    ),
    "round too large": ({"round": np.full((2, 4), 4)}, "round: received '4 at [0, 0] (and 5 more)'; allowed: 0..3"),
    "rounds go back": ({"round": np.array([[1, 0, 0, 0], [0, 0, 0, 1]])}, "round: received '0 at [0, 1] (and 1 more)'"),
    "round after its decision": (
        {"round": np.zeros((2, 4), int)},
        "round: received '0 at [1, 3]'; allowed: a new round",
    ),
    "vocabulary": ({"vocabulary": 1}, "vocabulary: received 1; allowed: at least 2 choices"),
    "vocabulary per token": ({"vocabulary": np.ones(3, int)}, "vocabulary.shape: received (3,); allowed: ()"),
    "tokens": ({"tokens": np.full((2, 4), 2**40)}, "tokens: received '1099511627776 at [0, 0] (and 7 more)'"),
    "score norm too large": ({"score_norm": np.full((2, 4), 1.2)}, "score_norm: received '1.2 at [0, 0] (and 2 more)'"),
    "squared score norm": (
        {"score_norm": 2 * np.expm1(LOGP) ** 2, "vocabulary": 2},
        "score_norm: received '0.5 at [0, 0] (and 3 more)'",
    ),
    "one gradient": (
        {"gradient_sample": np.ones((2, 3))},
        "gradient_decision: received 'no such array'; allowed: both",
    ),
    "gradients of two sizes": (
        {"gradient_sample": np.ones((2, 3)), "gradient_decision": np.ones((2, 4))},
        "gradient_decision.shape: received (2, 4); allowed: (2, 3)",
    ),
    "one estimate": (
        {"gradient_sample": np.ones((1, 3)), "gradient_decision": np.ones((1, 3))},
        "gradient_sample.shape: received (1, 3); allowed: [N, P], N >= 2",
    ),
    "NaN gradient": (
        {"gradient_sample": np.full((2, 3), np.nan), "gradient_decision": np.ones((2, 3))},
        "gradient_sample: received 'nan at [0, 0] (and 5 more)'",
    ),
}


@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_errors_of_arrays(kind):
    change, words = ERRORS[kind]
    with pytest.raises(InputError) as caught:
        attribute_rollouts("sft", **tiny(**change))
    assert words in str(caught.value)


OBJECTIVE_ERRORS = {
    "needs old_logp": (
        "grpo",
        {},
        {"group": np.array([0, 0])},
        "old_logp: received 'no such array'; allowed: the array",
    ),
    "needs ref_logp": ("own_token_kl", {}, {}, "ref_logp: received 'no such array'; allowed: the array ref_logp"),
    "needs values": ("ppo", {}, {"old_logp": LOGP}, "values: received 'no such array'; allowed: the array values"),
    "needs groups": ("rloo", {}, {}, "group: received 'a group of 1'; allowed: at least 2 members"),
    "unknown": ("rlo", {}, {}, "objective: received 'rlo'; allowed: surrogate, reinforce"),
    "option": ("sft", {"beta": 1}, {}, "option of objective sft: received 'beta'"),
    "NaN coefficient": (
        f"{__name__}:broken",
        {},
        {},
        "coefficient of tests.rollouts.test_rollouts:broken: received 'nan at",
    ),
    **{
        name: (f"{__name__}:{name}", {}, {}, words)
        for name, words in {
            "one_number": "test_rollouts:one_number returns: received '1 value of shape ()'; allowed: two numbers",
            "by_row": "by_row returns: received '2 values of shapes (2,), ()'; allowed: two numbers, (sum, count)",
            "another_width": "another_width: received TypeError: mul got incompatible shapes",
            "raises": f"raises: received KeyError: 'advantages' ({__file__}, line ",
            "of_values": "of_values: received ConcretizationTypeError: ",
        }.items()
    },
}


def broken(logp_BxS: jax.Array, traj: Trajectories):
    return jnp.sum(jnp.where(traj.mask, logp_BxS, 0.0)) * jnp.nan, jnp.sum(traj.weight)


def one_number(logp_BxS: jax.Array, traj: Trajectories):
    return -jnp.mean(logp_BxS)


def by_row(logp_BxS: jax.Array, traj: Trajectories):
    return -jnp.sum(logp_BxS, -1), jnp.sum(traj.weight)


def another_width(logp_BxS: jax.Array, traj: Trajectories):
    return jnp.sum(logp_BxS * jnp.ones((2, 9))), jnp.sum(traj.weight)


def raises(logp_BxS: jax.Array, traj: Trajectories):
    raise KeyError("advantages")


def of_values(logp_BxS: jax.Array, traj: Trajectories):
    return jnp.sum(logp_BxS) * float(logp_BxS[0, 0]), jnp.sum(traj.weight)


@pytest.mark.parametrize("kind", sorted(OBJECTIVE_ERRORS))
def test_errors_of_objectives(kind):
    name, options, change, words = OBJECTIVE_ERRORS[kind]
    with pytest.raises(InputError) as caught:
        attribute_rollouts(name, options, **tiny(**change))
    assert words in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("resamples", 0), ("success", float("nan"))])
def test_errors_of_settings(name, value):
    with pytest.raises(InputError, match=f"{name}: received"):
        attribute_rollouts("sft", **{name: value}, **tiny())


# The file and the command.


def saved(path: Path, **change) -> Path:
    np.savez(path, **tiny(**change))
    return path


def test_a_file_gives_the_same_arrays(tmp_path):
    found = read(saved(tmp_path / "run.npz", vocabulary=7))
    assert set(found) == {*tiny(), "vocabulary"}
    assert unknown(tmp_path / "run.npz") == []
    for name, x in tiny().items():
        np.testing.assert_array_equal(found[name], x)
    assert attribute_rollouts("sft", **found).to_json() == attribute_rollouts("sft", **tiny(vocabulary=7)).to_json()
    np.savez_compressed(tmp_path / "small.npz", **tiny())
    assert attribute_rollouts("sft", **read(tmp_path / "small.npz")).loss == attribute_rollouts("sft", **tiny()).loss


def test_written_arrays_are_those_given_and_plain(tmp_path):
    write_arrays(tmp_path / "run.npz", tiny())
    with np.load(tmp_path / "run.npz") as found:
        assert set(found) == {*tiny()}  # NumPy 2.0 would store an argument that it does not know
    with pytest.raises(ValueError, match="arrays of objects cannot be stored: logp"):
        write_arrays(tmp_path / "objects.npz", {"logp": np.array([{"a": 1}], object)})
    assert not (tmp_path / "objects.npz").exists()


def write_npy(path: Path):
    with path.open("wb") as file:
        np.save(file, LOGP)


def write_pickle(path: Path):
    np.savez(path, logp=np.array([{"a": 1}], object))


def write_cut(path: Path):
    saved(path)
    path.write_bytes(path.read_bytes()[:-30])


def write_damaged(path: Path):
    saved(path)
    data = bytearray(path.read_bytes())
    place = data.find(b"NUMPY") + 130  # past the header of the first array
    data[place : place + 8] = bytes(255 - x for x in data[place : place + 8])
    path.write_bytes(bytes(data))


def write_text_member(path: Path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("logp", "not an array")


BROKEN = {
    "absent": (lambda path: None, "rollouts file: received '{path}'; allowed: a readable .npz file (No such file"),
    "directory": (lambda path: path.mkdir(), "received '{path}'; allowed: a directory with .npz files"),
    "empty": (lambda path: path.touch(), "allowed: an .npz file, as numpy.savez writes it"),
    "text": (lambda path: path.write_text("logp, reward\n"), "allowed: an .npz file, as numpy.savez writes it"),
    "npy": (write_npy, "allowed: an .npz file, as numpy.savez writes it"),
    "pickle": (write_pickle, "logp: received 'an array of {path} that cannot be read'; allowed: plain numbers"),
    "cut off": (write_cut, "allowed: an .npz file, as numpy.savez writes it"),
    "damaged": (write_damaged, "allowed: a readable .npz file (Bad CRC"),
    "text member": (write_text_member, "logp: received 'an array of {path} that cannot be read'; allowed: an array"),
    "unknown": (lambda path: np.savez(path, rewards=np.ones(2)), "logp: received 'no such array'"),
    "missing": (lambda path: np.savez(path, logp=LOGP), "sample_mask: received 'no such array'"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_errors_of_files(tmp_path, kind):
    write, words = BROKEN[kind]
    path = tmp_path / "run.npz"
    write(path)
    with pytest.raises(InputError) as caught:
        command((path,), objective="sft")
    assert words.format(path=path) in str(caught.value)


def printed(path: Path, objective: str, *option: str, out: Path | None = None, **flags: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert command((path,), objective=objective, option=option, json=out, **flags) == 0
    assert_plain(text.getvalue())
    return text.getvalue()


def test_command_prints_tables_and_writes_json(tmp_path):
    g = np.random.default_rng(0).normal(size=(6, 4))
    path = saved(tmp_path / "run.npz", gradient_sample=g, gradient_decision=g, group=np.array([0, 0]))
    text = printed(path, "rloo", out=tmp_path / "out.json")
    for words in ("Coefficients of rloo", "(iii) block", "RESAMPLE", "needs gradients", "|E[g_s]|^2", "2 trajectories"):
        assert words in text
    data = json.loads((tmp_path / "out.json").read_text())
    assert data == attribute_rollouts("rloo", **read(path)).to_json()
    assert data["format"] == FORMAT == 2
    assert "Coefficients of sft (decision_weight = 2.0)" in printed(path, "sft", "decision_weight=2.0")


def test_command_says_where_it_cannot_write(tmp_path):
    path = saved(tmp_path / "run.npz")
    for out in (tmp_path, tmp_path / "absent" / "out.json"):
        with pytest.raises(InputError, match=r"json: received .*; allowed: a file that can be written"):
            command((path,), objective="sft", json=out)


def test_documented_example_and_formats(tmp_path, monkeypatch, capsys):
    """The example runs as it stands, with the numbers in its comments; the tables list every array and every key."""
    text = (ROOT / "docs" / "attribute.md").read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example[1], names)
    token, block, push, decision, sample, reading = capsys.readouterr().out.splitlines()
    assert float(token) == pytest.approx(0.5)
    assert float(block) == pytest.approx(0.25)
    assert float(push) == pytest.approx((0.2 - 0.4) * (2 / 3) / 2)
    assert (decision, sample) == ("available", "bound")
    assert reading == names["found"].reading
    assert "Coefficients of rloo" in printed(tmp_path / "rollouts.npz", "rloo")
    file, tables = text.split("## The file")[1].split("## What log-probs")[0], text.split("## JSON")[1]
    for name in ARRAYS:
        assert f"`{name}`" in file, name
    assert set(re.findall(r"`(\w+)`", file)) >= set(REQUIRED)
    for key in names["found"].to_json():
        assert f"`{key}" in tables, key

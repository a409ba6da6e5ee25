"""The statistical evidence, and the tests of its tests: size, power, and what must never pass."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from dsjax.attribution import component_gradients
from dsjax.errors import InputError
from dsjax.objectives import reinforce
from dsjax.policies import SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.statistics import holm
from proofs_check.report import Report
from proofs_check.statistical import ESTIMATORS, LEVEL, EstimatorResult, run_statistical, runner
from proofs_check.statistical.hotelling import detectable, f_critical, f_tail, mean_test
from proofs_check.statistical.settings import SETTINGS

SAMPLES, BLOCK = 8192, 512  # batches of the run, and of one small replication
RESAMPLES = 1000
NAMES = [e.name for e in ESTIMATORS]
HARDEST = "leave-one-out, history and cost"  # 26 coordinates, some of rarely visited contexts
ROW_KEYS = {
    *("estimator", "theorem", "provenance", "claim", "setting", "status", "statistic", "degrees", "p_value", "p_holm"),
    *("detectable_bias", "detectable_decision_bias", "exact_gap", "tolerance", "control", "control_statistic"),
    *("control_p", "control_rejected", "samples", "trajectories", "seconds"),
}


class Run(NamedTuple):
    report: Report[EstimatorResult]
    sampled: dict[str, np.ndarray]  # f[N, p]
    expected: dict[str, np.ndarray]  # f[p]
    progress: list[runner.Progress]


@pytest.fixture(scope="module")
def full():
    """One run of all estimators, with the batches that it drew."""
    sampled, expected, progress = {}, {}, []

    def spy(compiled, *args):
        out = sample(compiled, *args)
        sampled.update({name: pair[0] for name, pair in out.items()})
        expected.update({name: exact["expected"] for name, exact in compiled.exact.items()})
        return out

    with pytest.MonkeyPatch.context() as patch:
        sample = runner.sample
        patch.setattr(runner, "sample", spy)
        report = run_statistical(0, progress.append, SAMPLES)
    return Run(report, sampled, expected, progress)


def test_every_estimator_has_its_expectation_and_every_wrong_variant_is_rejected(full):
    report = full.report
    assert report.ok, report.failures()
    assert [r.estimator for r in report.rows] == [e.name for e in ESTIMATORS]
    assert {r.samples for r in report.rows} == {SAMPLES}
    # The evidence says something: a bias of 4 % of any gradient, of 6 % of any decision gradient, would be seen.
    assert all(0 < r.detectable_bias < 0.04 and 0 < r.detectable_decision_bias < 0.06 for r in report.rows)
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    assert (full.progress[-1].done, full.progress[-1].total) == (3 * SAMPLES,) * 2
    assert {p.theorem for p in full.progress} == set(SETTINGS)


def test_the_report_is_strict_json_and_prints(full):
    data = json.loads(json.dumps(full.report.to_json(), allow_nan=False))
    assert data["version"] == 1
    assert data["ok"] is True
    assert all(set(row) == ROW_KEYS for row in data["rows"])
    out = io.StringIO()
    full.report.print(Console(file=out, width=160))
    assert "Hotelling" in out.getvalue()
    assert "FAILED" not in out.getvalue()


def kolmogorov(p_values: np.ndarray) -> float:
    """sqrt(n) times the distance from the uniform law; P(> x) is about 2 exp(-2 x^2)."""
    p, n = np.sort(p_values), len(p_values)
    return math.sqrt(n) * float(np.max(np.maximum(np.arange(1, n + 1) / n - p, p - np.arange(n) / n)))


@pytest.mark.parametrize("name", NAMES)
def test_p_values_are_roughly_uniform_where_the_claim_holds(full, name):
    """16 replications of 512 batches against the stated mean: kolmogorov > 2.4 has probability 2e-5."""
    x = full.sampled[name]
    p_values = [mean_test(block, full.expected[name]).p_value for block in x.reshape(-1, BLOCK, x.shape[1])]
    assert kolmogorov(np.array(p_values)) < 2.4


def resampled(x_MxP: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(F, d, N - d), each f[RESAMPLES]: the test on N = `size` vectors drawn from these around their mean.

    The mean is then right by construction, so rejections show what the shape of the law does to the test.
    """
    x = (x_MxP - x_MxP.mean(0)) / x_MxP.std(0)
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / len(x))
    x = x @ vectors[:, eigenvalues > 1e-10]
    d = x.shape[1]
    i, j = np.triu_indices(d)
    drawn_RxN = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, size))
    place = drawn_RxN + len(x) * np.arange(RESAMPLES)[:, None]
    count_RxM = np.bincount(place.ravel(), minlength=RESAMPLES * len(x)).reshape(RESAMPLES, -1).astype(float)
    moments = count_RxM @ np.concatenate([x, x[:, i] * x[:, j]], axis=1) / size
    mean, S = moments[:, :d], np.empty((RESAMPLES, d, d))
    S[:, i, j] = S[:, j, i] = moments[:, d:]
    S = (S - mean[:, :, None] * mean[:, None, :]) * size / (size - 1)
    T2 = size * np.einsum("ri,ri->r", mean, np.linalg.solve(S, mean[..., None])[..., 0])
    n = size - d
    return T2 * n / (d * (size - 1)), np.full(RESAMPLES, float(d)), np.full(RESAMPLES, float(n))


@pytest.mark.parametrize("name", NAMES)
def test_the_size_is_right_at_the_fewest_samples(full, name):
    """P(p < 0.05) of 1000 resamplings within four standard errors, and the whole law of p."""
    f, d, n = resampled(full.sampled[name], runner.FEWEST_SAMPLES)
    p_values = f_tail(f, d, n)
    assert abs(np.mean(p_values < 0.05) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / RESAMPLES)
    assert kolmogorov(p_values) < 2.4
    # A variance that is too small by a third must be seen.
    assert kolmogorov(f_tail(1.5 * f, d, n)) > 2.4


def test_256_batches_would_be_too_few(full):
    """Why `samples` has a lower limit: heavy tails. It also shows that the test above can fail."""
    p_values = f_tail(*resampled(full.sampled[HARDEST], 256))
    assert np.mean(p_values < 0.05) > 0.05 + 4 * math.sqrt(0.05 * 0.95 / RESAMPLES)


def test_batches_do_not_depend_on_their_number(full):
    again = runner.sample(runner.prepare("graded"), 0, 300)
    other = runner.sample(runner.prepare("graded"), 1, 300)
    for name, (x, _) in again.items():
        np.testing.assert_array_equal(x, full.sampled[name][:300])
        assert (x != other[name][0]).any()


# The tests themselves.


def test_f_tails_far_out():
    """With 2 degrees of freedom P(F > f) = (1 + 2 f / n)^(-n / 2)."""
    for n in (10.0, 500.0, 16_000.0):
        f = np.array([0.1, 1.0, 5.0, 40.0, 100.0])
        exact = (1 + 2 * f / n) ** (-n / 2)
        # Through log-gammas of size up to log-gamma(8000) = 6.4e4: a few roundings of 6.4e4 x eps = 1.4e-11 in the log.
        got = f_tail(f, np.full(5, 2.0), np.full(5, n))
        np.testing.assert_allclose(got, exact, rtol=1e-10)
        assert f_critical(float(exact[2]), 2, int(n)) == pytest.approx(5.0, rel=1e-9)
    assert np.isnan(f_tail(np.array(np.nan), np.array(2.0), np.array(9.0)))


def test_detectable_effect_of_a_normal_mean():
    """One coordinate, known variance: (z_(alpha/2) + z_beta)^2; two-sided 0.001 and power 0.9."""
    assert detectable(0.001, 1, 10**6) == pytest.approx((3.290527 + 1.281552) ** 2, rel=1e-4)


def test_detectable_bias_is_detected_nine_times_in_ten():
    rng, level, N, degrees = np.random.default_rng(0), 0.01, 60, 3
    mixing, direction = np.tril(rng.normal(size=(3, 3))) + 2 * np.eye(3), np.array([1.0, -0.5, 0.2])
    covariance = mixing @ mixing.T
    noncentrality = detectable(level, degrees, N - degrees)
    delta = math.sqrt(noncentrality / (N * direction @ np.linalg.solve(covariance, direction)))
    x = rng.normal(size=(600, N, 3)) @ mixing.T
    hits = np.mean([mean_test(block, delta * direction).p_value <= level for block in x])
    false = np.mean([mean_test(block, np.zeros(3)).p_value <= level for block in x])
    assert abs(hits - 0.9) < 4 * math.sqrt(0.09 / 600)
    assert false < level + 4 * math.sqrt(level / 600)
    got = mean_test(rng.normal(size=(20_000, 3)) @ mixing.T, np.zeros(3)).relative_bias(direction, noncentrality)
    want = math.sqrt(noncentrality / (20_000 * direction @ np.linalg.solve(covariance, direction)))
    assert got == pytest.approx(want, rel=0.05)  # a sample covariance from 20,000 draws: 1 %


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    adjusted = holm([0.001, math.nan, 0.9])  # a NaN still counts as a test
    assert adjusted[0] == pytest.approx(0.003)
    assert math.isnan(adjusted[1])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_directions_that_never_vary_are_tested_exactly():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2)) * [1.0, 1e-3]
    plain = mean_test(x, np.zeros(2))
    wide = np.concatenate([x, x[:, :1] - 2e3 * x[:, 1:], np.full((400, 1), 0.3)], axis=1)
    test = mean_test(wide, np.array([0.0, 0.0, 0.0, 0.3]))
    assert test.degrees == 2
    assert test.p_value == pytest.approx(plain.p_value, rel=1e-6)
    for wrong in ([0.0, 0.0, 1e-6, 0.3], [0.0, 0.0, 0.0, 0.3 + 1e-9]):
        assert mean_test(wide, np.array(wrong)).p_value == 0.0
    nothing = mean_test(np.full((400, 1), 0.1), np.array([0.1]))
    assert (nothing.degrees, nothing.p_value) == (0, 1.0)
    with pytest.raises(InputError, match="samples"):
        mean_test(x[:2], np.zeros(2))


def test_a_nan_fails_the_row(full):
    x = np.random.default_rng(2).normal(size=(50, 2))
    x[3, 1] = np.nan
    assert math.isnan(mean_test(x, np.zeros(2)).p_value)
    assert math.isnan(mean_test(x[4:], np.array([0.0, np.nan])).p_value)
    row = full.report.rows[0]
    for change in ({"p_holm": math.nan}, {"exact_gap": math.nan}, {"p_holm": LEVEL / 2}, {"exact_gap": 1e-9}):
        bad = dataclasses.replace(row, **change)
        assert not bad.ok
        assert bad.to_json()["status"] == "failed"
    for control_p in (math.nan, LEVEL / 2):  # the level of one row is stricter than that of the family
        bad = dataclasses.replace(row, control_p=control_p)
        report = dataclasses.replace(full.report, rows=(bad,))
        assert not bad.control_rejected
        assert not report.ok
        assert "control not rejected" in report.failures()[0]


@pytest.mark.parametrize(("options", "field"), [({"samples": 4095}, "samples"), ({"seed": -1}, "seed")])
def test_errors_name_the_field(options, field):
    with pytest.raises(InputError, match=f"{field}: received"):
        run_statistical(**options)


PAIRS = {
    "none": 1.0,
    "leave_one_out": 1.0,
    "batch_mean": 1 / 2,
    "group_mean": 1 / 2,
    # E[std^2/(std + epsilon)]/(p (1 - p)): with G = 2 a mixed pair has std 1/2 and probability 2 p (1 - p).
    "group_normalised": 2 * 0.25 / (0.5 + 1e-4),
    "maxrl": 2 * 0.25 / (0.5 + 1e-6),  # E[m (1 - m)/(m + epsilon)]/(p (1 - p)), m = 1/2
}


def test_finite_group_factors_over_all_pairs(x64):
    """B = G = 2: the expectation over every pair of trajectories, written out, is factor x grad J."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones((1,)), reward_table=jnp.asarray([[1.0, 0.0]]), vocabulary=2, length=1, rounds=2
    )
    policy = SaturatedPolicy.for_process(process)

    @jax.jit
    def both():
        params = policy.init(jax.random.key(3))
        law = process.enumerate_trajectories(policy, params)

        def pair(i, j):
            two = jax.tree.map(lambda x: x[jnp.stack([i, j])], law).replace(weight=jnp.full((2,), 0.5), exact=False)
            gradients = {
                name: component_gradients(policy, params, two, partial(reinforce, baseline=name)).total
                for name in PAIRS
            }
            return jax.tree.map(lambda x: law.weight[i] * law.weight[j] * x, gradients)

        n = jnp.arange(law.weight.size)
        over_pairs = jax.vmap(lambda i: jax.vmap(lambda j: pair(i, j))(n))(n)
        exact = component_gradients(policy, params, law, reinforce).total
        return jax.tree.map(lambda x: jnp.sum(x, (0, 1)), over_pairs), exact

    over_pairs, exact = both()
    for name, factor in PAIRS.items():
        for got, want in zip(jax.tree.leaves(over_pairs[name]), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(got, factor * want, rtol=0, atol=1e-14)  # 36 products of numbers <= 1
            assert np.abs(np.asarray(want)).max() > 1e-2

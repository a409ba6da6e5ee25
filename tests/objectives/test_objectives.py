"""Objectives: coefficients against closed forms, reductions, masks, micro-batches, and names."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients, loss_of
from dsjax.errors import InputError
from dsjax.objectives import OBJECTIVES, import_function, resolve
from dsjax.objectives.aggregation import AGGREGATIONS, aggregate
from dsjax.trajectories import Trajectories
from tests.cases import ragged_batch

# Coefficients are a dozen operations on numbers of order 1 (exp and log included): a few tens of eps in float64.
EXACT = 1e-13


def squared_product(logp_BxS: jax.Array, traj: Trajectories, *, scale: float = 1.0):
    """A user's own objective, nonlinear and mixing both components: mean of scale (sum_s logp) (sum_d logp)."""
    s = jnp.sum(jnp.where(traj.sample_mask, logp_BxS, 0.0), -1)
    d = jnp.sum(jnp.where(traj.decision_mask, logp_BxS, 0.0), -1)
    return jnp.sum(traj.weight * scale * s * d), jnp.sum(traj.weight)


not_callable = 3

# name -> (objective, options); every registered objective at least once.
VARIANTS = {
    "reinforce": ("reinforce", {}),
    "reinforce, batch mean": ("reinforce", {"baseline": "batch_mean"}),
    "reinforce, reward KL": ("reinforce", {"baseline": "batch_mean", "reward_kl": 0.3}),
    "reinforce, token KL": ("reinforce", {"token_kl": 0.2, "kl_estimator": "k3"}),
    "rloo": ("rloo", {}),
    "grpo": ("grpo", {"epsilon": 1e-3}),
    "grpo, asymmetric clip": ("grpo", {"epsilon": 1e-3, "clip": 0.5, "clip_high": 0.2}),
    "grpo, both KL": ("grpo", {"epsilon": 1e-3, "token_kl": 0.2, "kl_estimator": "k1", "reward_kl": 0.1}),
    "sft": ("sft", {}),
    "sft, w = 3": ("sft", {"decision_weight": 3.0}),
    "sft, w = 0": ("sft", {"decision_weight": 0.0}),
    "k1": ("own_token_kl", {"estimator": "k1"}),
    "k2": ("own_token_kl", {"estimator": "k2", "aggregation": "token_mean"}),
    "k3": ("own_token_kl", {"estimator": "k3", "aggregation": "sequence_mean"}),
    "trajectory KL": ("trajectory_kl", {}),
    "own": (f"{__name__}:squared_product", {"scale": 0.5}),
}


def numpy_coefficients(name: str, logp: np.ndarray, traj: Trajectories) -> np.ndarray:
    """The table of formulas, by hand: c_it per token, zero outside of the masks."""
    kind, o = VARIANTS[name]
    s, d = np.asarray(traj.sample_mask), np.asarray(traj.decision_mask)
    m = (s | d).astype(float)
    old, ref, R = np.asarray(traj.old_logp), np.asarray(traj.ref_logp), np.asarray(traj.reward)
    group, B = np.asarray(traj.group), len(R)
    T_i = m.sum(-1)
    R = R - o.get("reward_kl", 0.0) * (m * (old - ref)).sum(-1)
    same = group[:, None] == group[None, :]
    others = same & ~np.eye(B, dtype=bool)

    def kl(estimator: str) -> np.ndarray:
        x = logp - ref
        return m * {"k1": -np.ones_like(x), "k2": -x, "k3": -(1 - np.exp(-x))}[estimator]

    if name == "own":
        sums = [(np.where(mask, logp, 0.0)).sum(-1)[:, None] for mask in (d, s)]
        return -o["scale"] * (s * sums[0] + d * sums[1]) / B
    if kind == "sft":
        w = s + o.get("decision_weight", 1.0) * d
        return w / w.sum()
    if kind == "own_token_kl":
        scale = {"sequence_sum": B, "sequence_mean": B * T_i[:, None], "token_mean": m.sum()}
        return kl(o["estimator"]) / scale[o.get("aggregation", "sequence_sum")]
    if kind == "trajectory_kl":
        return m * (-(m * (old - ref)).sum(-1))[:, None] / B
    if kind == "grpo":
        average = np.array([R[row].mean() for row in same])
        A = ((R - average) / (np.array([R[row].std() for row in same]) + o["epsilon"]))[:, None]
        rho, low = np.exp(logp - old), 1 - o.get("clip", 0.2)
        high = 1 + o.get("clip_high", o.get("clip", 0.2))
        live = np.where(A > 0, rho <= high, rho >= low)
        c = m * rho * A * live + o.get("token_kl", 0.0) * kl(o.get("kl_estimator", "k3"))
        return c / (B * T_i[:, None])
    A = R - R.mean() if o.get("baseline") == "batch_mean" else R
    if kind == "rloo":
        A = R - np.array([R[row].mean() for row in others])
    return (m * A[:, None] + o.get("token_kl", 0.0) * kl(o.get("kl_estimator", "k2"))) / B


def objective_of(name: str):
    kind, options = VARIANTS[name]
    return resolve(kind, options)


@pytest.fixture(params=VARIANTS, scope="module")
def name(request) -> str:
    """Module scope: all tests of one variant follow each other and share its compilation."""
    return request.param


class Measured(NamedTuple):
    loss: jax.Array
    c: jax.Array  # ascent coefficients
    total: jax.Array
    count: jax.Array
    raw: jax.Array  # d total / d logp, without the masking that `coefficients` adds


@functools.lru_cache
def compiled(name: str) -> Callable[[jax.Array, Trajectories], Measured]:
    f = objective_of(name)

    @jax.jit
    def run(logp, traj):
        raw = jax.grad(lambda x: f(x, traj)[0])(logp)
        return Measured(loss_of(f, logp, traj), coefficients(f, logp, traj), *f(logp, traj), raw)

    return run


@pytest.mark.parametrize("imitated", [False, True])
def test_coefficients_are_the_closed_forms(x64, name, imitated):
    logp, traj = ragged_batch(imitated=imitated)
    c = np.asarray(compiled(name)(logp, traj).c)
    expected = numpy_coefficients(name, np.asarray(logp), traj)
    np.testing.assert_allclose(c, expected, rtol=0, atol=EXACT)
    mask = np.asarray(traj.mask)
    assert not c[~mask].any()
    # Control: one percent more on the decisions is seen (unless they have no weight at all).
    wrong = np.where(np.asarray(traj.decision_mask), 1.01 * expected, expected)
    assert np.abs(c - wrong).max() > 1e6 * EXACT or name == "sft, w = 0"


def test_gradients_by_central_differences(x64, name):
    """Of the loss in every log-prob, the clipped ones (kept away from the kink) included."""
    logp, traj = ragged_batch(seed=1)
    f, h = objective_of(name), 1e-5
    steps = jnp.eye(logp.size).reshape(logp.size, *logp.shape)

    @jax.jit
    def both(x, traj):
        at = jax.vmap(lambda e: loss_of(f, x + e, traj))
        return -(at(h * steps) - at(-h * steps)) / (2 * h), coefficients(f, x, traj)

    numeric, c = both(logp, traj)
    # Truncation h^2/6 x |f'''| ~ 2e-11, cancellation eps |f| / h ~ 1e-10.
    np.testing.assert_allclose(np.where(traj.mask, numeric.reshape(c.shape), 0.0), c, rtol=0, atol=1e-9)


def test_nothing_leaks_from_behind_the_masks(x64, name):
    """NaN or infinity in padding of logp, old and reference changes neither the loss nor any gradient, bit for bit."""
    logp, traj = ragged_batch()

    def run(junk: float) -> Measured:
        x, old, ref = (jnp.where(traj.mask, jnp.asarray(y), junk) for y in (logp, traj.old_logp, traj.ref_logp))
        return compiled(name)(x, traj.replace(old_logp=old, ref_logp=ref))

    clean = run(-1.0)
    for junk in (np.nan, np.inf, -np.inf):
        for a, b in zip(clean, run(junk), strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.isfinite(b).all()


def part(traj: Trajectories, rows: np.ndarray, num_groups: int) -> Trajectories:
    """Some rows, with their groups renumbered; weights stay those of the whole batch."""
    _, group = np.unique(np.asarray(traj.group)[rows], return_inverse=True)
    taken = jax.tree.map(lambda x: x[rows], traj)
    return taken.replace(group=jnp.asarray(group, jnp.int32), num_groups=num_groups)


def test_micro_batches_combine_as_sums_and_counts(x64, name):
    """Whole groups in each: (sum of sums) / (sum of counts) is the loss of the batch. The mean of means is not."""
    if VARIANTS[name][1].get("baseline") == "batch_mean":
        return  # a batch-wide baseline is, by definition, not that of a part
    logp, traj = ragged_batch()
    whole = compiled(name)(logp, traj)
    pieces = [np.flatnonzero(np.asarray(traj.group) == g) for g in (0, 1)]
    parts = [compiled(name)(logp[rows], part(traj, rows, 1)) for rows in pieces]
    # Two orders of adding up about 50 terms.
    assert float(sum(r.total for r in parts)) == pytest.approx(float(whole.total), abs=EXACT)
    assert float(sum(r.count for r in parts)) == pytest.approx(float(whole.count), rel=EXACT, abs=0)
    for rows, r in zip(pieces, parts, strict=True):
        np.testing.assert_allclose(r.raw, whole.raw[rows], rtol=0, atol=EXACT)
    if name == "sft":
        assert abs(np.mean([r.loss for r in parts]) - float(whole.loss)) > 1e-3


def test_reductions(x64):
    """rloo is REINFORCE with leave-one-out; with w = 1 SFT is the plain token mean; and so on."""
    logp, traj = ragged_batch()
    equal = {
        "rloo": (resolve("rloo"), resolve("reinforce", {"baseline": "leave_one_out"})),
        "sft": (resolve("sft"), lambda x, t: aggregate(-x, t, "token_mean")),
        "no kl": (resolve("reinforce", {"token_kl": 0.0, "reward_kl": 0.0}), resolve("reinforce")),
        "kl only": (
            resolve("own_token_kl"),
            lambda x, t: resolve("reinforce", {"token_kl": 1.0})(x, t.replace(reward=jnp.zeros_like(t.reward))),
        ),
    }
    for left, right in equal.values():
        a, b = jax.jit(lambda x, t, f=left, g=right: (coefficients(f, x, t), coefficients(g, x, t)))(logp, traj)
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)


def test_grpo_on_policy_with_equal_lengths_is_normalised_reinforce(x64):
    """Ratio 1 and T_i = 9 in every sequence: c = A_i/(B T_i)."""
    logp, traj = ragged_batch()
    full = jnp.zeros(traj.tokens.shape, bool).at[:, 2::3].set(True)
    traj = traj.replace(sample_mask=~full, decision_mask=full, old_logp=logp)
    grpo, plain = resolve("grpo", {"epsilon": 0.0}), resolve("reinforce", {"baseline": "group_normalised"})
    a, b = jax.jit(lambda x, t: (coefficients(grpo, x, t), coefficients(plain, x, t) / 9))(logp, traj)
    # The default epsilon of 1e-4 in the second one is all that differs: relative 1e-4/std.
    np.testing.assert_allclose(a, b, rtol=1e-3)
    A = np.asarray(a)[:, :1] * 8 * 9
    np.testing.assert_allclose(np.asarray(a), np.broadcast_to(A / 72, a.shape), rtol=EXACT)
    for g in (0, 1):
        assert (A[np.asarray(traj.group) == g] ** 2).mean() == pytest.approx(1.0, abs=EXACT)


def test_aggregations(x64):
    logp, traj = ragged_batch()
    m, w = np.asarray(traj.mask), np.asarray(traj.weight)
    v = np.where(m, np.asarray(logp), 0.0)
    expected = {
        "sequence_sum": (w @ v.sum(-1), 1.0),
        "sequence_mean": (w @ (v.sum(-1) / m.sum(-1)), 1.0),
        "token_mean": (w @ v.sum(-1), w @ m.sum(-1)),
    }
    assert set(expected) == set(AGGREGATIONS)
    for how, numbers in expected.items():
        np.testing.assert_allclose(aggregate(logp, traj, how), numbers, rtol=EXACT)
    with pytest.raises(InputError, match="aggregation: received 'mean'; allowed: sequence_sum, sequence_mean"):
        aggregate(logp, traj, "mean")


def test_degenerate_batches_are_finite(x64, name):
    """Nothing drawn at all, no weight at all, one empty sequence: loss and coefficients stay finite, 0 where empty."""
    logp, traj = ragged_batch()
    nothing = traj.replace(sample_mask=traj.mask & False, decision_mask=traj.mask & False)
    weightless = traj.replace(weight=0 * traj.weight)
    keep = (jnp.arange(8) != 3)[:, None]
    one_empty = traj.replace(sample_mask=traj.sample_mask & keep, decision_mask=traj.decision_mask & keep)
    run = compiled(name)
    for case in (nothing, weightless):
        out = run(logp, case)
        assert float(out.loss) == 0
        np.testing.assert_array_equal(out.c, 0.0)
        assert np.isfinite(out.raw).all()
    out = run(logp, one_empty)
    assert np.isfinite(out.loss)
    assert np.isfinite(out.c).all()
    assert not np.asarray(out.c[3]).any()


def test_float32_stays_float32(name):
    """No silent promotion: training runs in float32."""
    logp, traj = ragged_batch()
    assert logp.dtype == jnp.float32
    f = objective_of(name)
    total, count = jax.eval_shape(f, logp, traj)
    assert (total.dtype, count.dtype) == (jnp.float32, jnp.float32)
    assert (total.shape, count.shape) == ((), ())


def test_a_users_function_and_its_options(x64):
    logp, traj = ragged_batch()
    half, whole = (resolve(f"{__name__}:squared_product", {"scale": x})(logp, traj)[0] for x in (0.5, 1.0))
    assert float(whole) == pytest.approx(2 * float(half))
    assert float(whole) > 0


@pytest.mark.parametrize(
    "unknown",
    [
        "ppo",
        "",
        "no_such_module_anywhere:f",
        f"{__name__}:no_such_function",
        f"{__name__}:not_callable",
        f"{__name__}:",
        ":f",
        ".relative:f",
    ],
)
def test_unknown_names(unknown):
    with pytest.raises(InputError) as error:
        resolve(unknown)
    assert error.value.field == "objective"
    assert repr(unknown) in str(error.value)
    if unknown == "ppo":
        for known in (*OBJECTIVES, "module:function"):
            assert known in str(error.value)


def test_import_function_names_the_field_it_was_asked_for(monkeypatch):
    module = types.ModuleType("a_users_module")
    module.__dict__["f"] = len
    monkeypatch.setitem(sys.modules, "a_users_module", module)
    assert import_function("verifier", "a_users_module:f") is len
    with pytest.raises(InputError, match=r"^verifier: "):
        import_function("verifier", "a_users_module:g")


@pytest.mark.parametrize(
    ("field", "objective", "options"),
    [
        ("advantage", "reinforce", {"baseline": "mean"}),
        ("clip", "grpo", {"clip": 0.0}),
        ("clip", "grpo", {"clip": 1.0}),
        ("decision_weight", "sft", {"decision_weight": -1.0}),
        ("estimator", "own_token_kl", {"estimator": "k4"}),
        ("estimator", "reinforce", {"token_kl": 0.1, "kl_estimator": "k4"}),
        ("aggregation", "own_token_kl", {"aggregation": "mean"}),
    ],
)
def test_bad_options_name_the_field(x64, field, objective, options):
    logp, traj = ragged_batch()
    with pytest.raises(InputError) as error:
        resolve(objective, options)(logp, traj)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("field", "objective", "options"),
    [
        ("old_logp", "grpo", {}),
        ("old_logp", "reinforce", {"reward_kl": 0.1}),
        ("ref_logp", "reinforce", {"token_kl": 0.1}),
        ("ref_logp", "own_token_kl", {}),
        ("old_logp", "trajectory_kl", {}),
    ],
)
def test_missing_log_probs_are_named(x64, field, objective, options):
    logp, traj = ragged_batch()
    with pytest.raises(InputError) as error:
        resolve(objective, options)(logp, traj.replace(**{field: None}))
    assert error.value.field == field

"""Every registered objective: coefficients against closed forms, slopes, masks, micro-batches, degenerate batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients
from dsjax.objectives import OBJECTIVES, Objective, resolve
from dsjax.trajectories import Trajectories
from tests.objectives import reference
from tests.objectives.reference import PADDING, batch, quick_jit

# Coefficients are a few dozen operations on numbers of order 1 (exp and log included): a few tens of eps in float64.
EXACT = 1e-13


def squared_product(logp_BxS: jax.Array, traj: Trajectories, *, scale: float = 1.0):
    """A user's own objective, nonlinear and mixing both components: mean of scale (sum_s logp) (sum_d logp)."""
    s = jnp.sum(jnp.where(traj.sample_mask, logp_BxS, 0.0), -1)
    d = jnp.sum(jnp.where(traj.decision_mask, logp_BxS, 0.0), -1)
    return jnp.sum(traj.weight * scale * s * d), jnp.sum(traj.weight)


# name -> (objective, options); every registered objective at least once.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "reinforce": ("reinforce", {}),
    "reinforce, batch mean": ("reinforce", {"baseline": "batch_mean"}),
    "reinforce, reward KL": ("reinforce", {"baseline": "batch_mean", "reward_kl": 0.3}),
    "reinforce, token KL": ("reinforce", {"token_kl": 0.2, "kl_estimator": "k3"}),
    "reinforce, entropy": ("reinforce", {"entropy": 0.1, "aggregation": "token_mean"}),
    "reinforce, KL token by token": ("reinforce", {"baseline": "returns_to_go", "reward_kl": 0.3}),
    "surrogate, sequence ratio": ("surrogate", {"ratio": "sequence", "aggregation": "constant", "max_tokens": 20}),
    "surrogate, GAE and geometric": ("surrogate", {"advantage": "gae", "ratio": "geometric", "discount": 0.9}),
    "rloo": ("rloo", {}),
    "rloo, clipped": ("rloo_clipped", {}),
    "grpo": ("grpo", {"epsilon": 1e-3}),
    "grpo, asymmetric clip": ("grpo", {"epsilon": 1e-3, "clip": 0.5, "clip_high": 0.2}),
    "grpo, both KL": ("grpo", {"epsilon": 1e-3, "token_kl": 0.2, "kl_estimator": "k1", "reward_kl": 0.1}),
    "gspo": ("gspo", {}),
    "gspo, wide clip": ("gspo", {"clip": 0.15, "clip_high": None}),
    "dapo": ("dapo", {"token_kl": 0.3, "kl_estimator": "k3_ratio"}),
    "dr_grpo": ("dr_grpo", {"max_tokens": 12}),
    "cispo": ("cispo", {"clip": 0.2, "clip_high": 0.2}),
    "ppo": ("ppo", {"discount": 0.9, "gae_lambda": 0.8}),
    "ppo, whitened": ("ppo", {"gae_lambda": 0.95, "whiten": True, "reward_kl": 0.1}),
    "reinforce++": ("reinforce_plus_plus", {}),
    "reinforce++, KL": ("reinforce_plus_plus", {"reward_kl": 0.2, "discount": 0.95}),
    "per turn": ("biased_per_turn", {"reward_kl": 0.2}),
    "sapo": ("sapo", {"temperature": 0.8}),
    "gmpo": ("gmpo", {"clip": 0.3}),
    "luspo": ("luspo", {"clip": 0.15, "clip_high": None}),
    "dppo, TV": ("dppo_tv", {"clip": 0.1}),
    "dppo, KL": ("dppo_kl", {"clip": 0.03}),
    "gpg": ("gpg", {}),
    "dro": ("dro", {"beta": 0.5}),
    "psr_nsr": ("psr_nsr", {"threshold": 0.5}),
    "std over n - 1, prompt mean": ("grpo", {"ddof": 1, "std_floor": 0.2, "aggregation": "prompt_mean"}),
    "batch std": ("grpo", {"std_of": "batch", "ddof": 1, "aggregation": "nonempty_sequence_mean"}),
    "icepop, rejected leave": ("grpo", {"mismatch": "token_mask", "mismatch_high": 1.5, "rejected": "leave"}),
    "sft": ("sft", {}),
    "sft, w = 3": ("sft", {"decision_weight": 3.0}),
    "sft, w = 0": ("sft", {"decision_weight": 0.0}),
    "sft, sequence sum": ("sft_sequence_sum", {"decision_weight": 3.0}),
    "rft": ("rft", {"threshold": 0.5}),
    "dft": ("dft", {}),
    "dpo": ("dpo", {"beta": 0.5}),
    "ipo": ("ipo", {"beta": 0.5}),
    "simpo": ("simpo", {"margin": 0.5}),
    "kto": ("kto", {"beta": 0.5, "threshold": 0.5, "undesirable_weight": 1.5, "reference_point": 0.1}),
    "k1": ("own_token_kl", {"estimator": "k1"}),
    "k2": ("own_token_kl", {"estimator": "k2", "aggregation": "token_mean"}),
    "k3": ("own_token_kl", {"estimator": "k3", "aggregation": "sequence_mean"}),
    "k3 x ratio": ("own_token_kl", {"estimator": "k3_ratio"}),
    "trajectory KL": ("trajectory_kl", {}),
    "distillation": ("distillation", {"discount": 0.7}),
    "entropy": ("entropy_bonus", {"aggregation": "token_mean"}),
    "own": (f"{__name__}:squared_product", {"scale": 0.5}),
}
# A statistic of the whole batch is, by definition, not that of a part.
BATCH_STATISTICS = (
    "reinforce, batch mean",
    "reinforce, reward KL",
    "ppo, whitened",
    "reinforce++",
    "reinforce++, KL",
    "gpg",
    "batch std",
)
# A stop-gradient makes the derivative something else than the slope of the value.
NO_POTENTIAL = ("cispo", "dft", "entropy", "reinforce, entropy", "dppo, TV", "dppo, KL", "distillation")


def test_every_registered_objective_is_here():
    assert set(OBJECTIVES) <= {kind for kind, _ in VARIANTS.values()}


def numpy_coefficients(name: str, logp: jax.Array, traj: Trajectories) -> np.ndarray:
    kind, options = VARIANTS[name]
    if name != "own":
        return reference.coefficients(kind, options, logp, traj)
    s, d = np.asarray(traj.sample_mask), np.asarray(traj.decision_mask)
    sums = [np.where(mask, np.asarray(logp), 0.0).sum(-1)[:, None] for mask in (d, s)]
    return -options["scale"] * (s * sums[0] + d * sums[1]) / len(s)


@pytest.fixture(params=VARIANTS, scope="module")
def name(request) -> str:
    """Module scope: all tests of one variant follow each other, and neighbours share a program."""
    return request.param


TOGETHER = 8  # variants a program: compiling costs by the program more than by the variant


def neighbours(name: str) -> tuple[str, ...]:
    """The variants that share a program with this one."""
    names = list(VARIANTS)
    start = names.index(name) // TOGETHER * TOGETHER
    return tuple(names[start : start + TOGETHER])


class Measured(NamedTuple):
    loss: jax.Array
    c: jax.Array  # ascent coefficients
    total: jax.Array
    count: jax.Array
    raw: jax.Array  # d total / d logp, without the masking that `coefficients` adds


def measure(f: Objective, logp: jax.Array, traj: Trajectories) -> Measured:
    (total, count), pull = jax.vjp(lambda x: f(x, traj), logp)
    raw = pull((jnp.ones_like(total), jnp.zeros_like(count)))[0]
    loss = jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)
    return Measured(loss, coefficients(f, logp, traj), total, count, raw)


@functools.lru_cache
def program(names: tuple[str, ...]) -> Callable[[jax.Array, Trajectories], dict[str, Measured]]:
    objectives = {name: resolve(*VARIANTS[name]) for name in names}
    return quick_jit(lambda logp, traj: {name: measure(f, logp, traj) for name, f in objectives.items()})


def compiled(name: str) -> Callable[[jax.Array, Trajectories], Measured]:
    run = program(neighbours(name))
    return lambda logp, traj: run(logp, traj)[name]


@pytest.mark.parametrize("imitated", [False, True])
def test_coefficients_are_the_closed_forms(x64, name, imitated):
    logp, traj = batch(imitated=imitated)
    c = np.asarray(compiled(name)(logp, traj).c)
    expected = numpy_coefficients(name, logp, traj)
    np.testing.assert_allclose(c, expected, rtol=0, atol=EXACT)
    mask = np.asarray(traj.mask)
    assert not c[~mask].any()
    # Control: one percent more on the decisions is seen, unless they have no weight at all.
    wrong = np.where(np.asarray(traj.decision_mask), 1.01 * expected, expected)
    assert np.abs(c - wrong).max() > 1e6 * EXACT or name == "sft, w = 0"


def test_gradients_by_central_differences(x64, name):
    """Of the loss along random directions, clipped tokens (kept away from the kink) included."""
    if name in NO_POTENTIAL:
        return
    logp, traj = batch(seed=1)
    rng, h = np.random.default_rng(0), 1e-5
    c = np.asarray(compiled(name)(logp, traj).c)
    for _ in range(3):
        direction = np.where(traj.mask, rng.uniform(-1, 1, size=logp.shape), 0.0)
        ahead, behind = (compiled(name)(logp + sign * h * direction, traj).loss for sign in (1, -1))
        # Truncation h^2/6 |f'''|: below 1e-9 for a third derivative below 50. Cancellation eps |f| / h ~ 1e-10.
        assert -(float(ahead) - float(behind)) / (2 * h) == pytest.approx((c * direction).sum(), abs=1e-9)


def test_nothing_leaks_from_behind_the_masks(x64, name):
    """NaN or infinity in padding of any recorded field changes neither the loss nor any gradient, bit for bit."""
    logp, traj = batch()

    def run(junk: float) -> Measured:
        fields = (logp, traj.old_logp, traj.ref_logp, traj.values, traj.sampler_logp)
        x, old, ref, values, mu = (jnp.where(traj.mask, jnp.asarray(y), junk) for y in fields)
        return compiled(name)(x, traj.replace(old_logp=old, ref_logp=ref, values=values, sampler_logp=mu))

    clean = run(-1.0)
    for junk in (np.nan, np.inf, -np.inf):
        for a, b in zip(clean, run(junk), strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.isfinite(b).all()


def part(traj: Trajectories, rows: np.ndarray) -> Trajectories:
    """Some rows, padded to the full batch with copies of weight 0 in the empty group."""
    kept = np.isin(np.arange(len(traj.reward)), rows)
    group, weight = jnp.where(kept, traj.group, PADDING), jnp.where(kept, traj.weight, 0.0)
    return traj.replace(group=group.astype(jnp.int32), weight=weight)


# Groups have 3, 3 and 2 members. Objectives without groups may be cut anywhere.
BY_GROUP = [np.array([6, 7]), np.array([0, 1, 2, 3, 4, 5])]
ANYWHERE = [np.array([2]), np.array([0, 5, 7]), np.array([1, 3, 4, 6])]
GROUPED = (
    *("rloo", "grpo", "gspo", "dapo", "dr_grpo", "cispo", "per turn", "dpo", "ipo", "simpo"),
    *("sapo", "gmpo", "luspo", "dppo", "dro", "std over n - 1", "icepop"),
)


def test_micro_batches_combine_as_sums_and_counts(x64, name):
    """Unequal parts: (sum of sums) / (sum of counts) is the loss of the batch. The mean of means is not."""
    if name in BATCH_STATISTICS:
        return
    logp, traj = batch()
    whole = compiled(name)(logp, traj)
    pieces = BY_GROUP if name.startswith(GROUPED) else ANYWHERE
    parts = [compiled(name)(logp, part(traj, rows)) for rows in pieces]
    # Two orders of adding up about 50 terms.
    assert float(sum(r.total for r in parts)) == pytest.approx(float(whole.total), abs=EXACT)
    assert float(sum(r.count for r in parts)) == pytest.approx(float(whole.count), rel=EXACT, abs=0)
    np.testing.assert_allclose(sum(np.asarray(r.raw) for r in parts), whole.raw, rtol=0, atol=EXACT)
    if name == "sft":
        assert abs(np.mean([r.loss for r in parts]) - float(whole.loss)) > 1e-3


def test_parts_without_padding(x64):
    """The rows alone, groups renumbered, give what the padded part gives."""
    logp, traj = batch()
    rows = BY_GROUP[1]
    alone = jax.tree.map(lambda x: x[rows], traj).replace(num_groups=2)
    run = quick_jit(lambda x, t: [resolve(name)(x, t) for name in ("dpo", "dr_grpo")])
    for a, b in zip(run(logp[rows], alone), run(logp, part(traj, rows)), strict=True):
        np.testing.assert_allclose(a, b, rtol=EXACT)


def test_empty_batches(x64, name):
    """Nothing drawn at all, no weight at all, one empty sequence: loss and coefficients stay finite, 0 where empty."""
    logp, traj = batch()
    nothing = traj.replace(sample_mask=traj.mask & False, decision_mask=traj.mask & False)
    weightless = traj.replace(weight=0 * traj.weight)
    keep = (jnp.arange(8) != 3)[:, None]
    one_empty = traj.replace(sample_mask=traj.sample_mask & keep, decision_mask=traj.decision_mask & keep)
    run = compiled(name)
    for case in (nothing, weightless):
        out = run(logp, case)
        # A pair of trajectories without a token still costs its loss at gap 0: log 2, and 1/(2 beta)^2 = 1.
        # One of KTO is at x = 0: v = sigmoid(0.05) of a wrong one, of weight 1.5, and 1 - v of a right one.
        v, right = 1 / (1 + np.exp(-0.05)), float(jnp.mean(traj.reward >= 0.5))
        unpaid = {
            "dpo": np.log(2),
            "ipo": 1.0,
            "simpo": np.log1p(np.exp(0.5)),
            "kto": right * v + 1.5 * (1 - right) * (1 - v),
        }
        assert float(out.loss) == (pytest.approx(unpaid[name]) if case is nothing and name in unpaid else 0)
        np.testing.assert_array_equal(out.c, 0.0)
        assert np.isfinite(out.raw).all()
    out = run(logp, one_empty)
    assert np.isfinite(out.loss)
    assert np.isfinite(out.c).all()
    assert not np.asarray(out.c[3]).any()
    np.testing.assert_allclose(out.c, numpy_coefficients(name, logp, one_empty), rtol=0, atol=EXACT)


def test_equal_returns(x64, name):
    """All returns equal: relative advantages vanish exactly, there are no pairs, and nothing is divided by zero."""
    logp, traj = batch()
    out = compiled(name)(logp, traj.replace(reward=jnp.full_like(traj.reward, 0.7)))
    for x in out:
        assert np.isfinite(x).all()
    exactly = ("grpo", "sapo", "gmpo", "luspo", "dppo, TV", "gpg", "reinforce++", "batch std", "dpo", "ipo", "simpo")
    if name in (*exactly, "rloo", "rloo, clipped", "gspo", "cispo", "dr_grpo"):
        # The mean of three equal numbers is off by a rounding error; standardised ones are cut to exactly 0.
        np.testing.assert_allclose(out.c, 0.0, atol=0 if name in exactly else 1e-15)
    if name in ("dpo", "ipo", "simpo"):
        assert float(out.count) == 0


@pytest.mark.parametrize("far", [1000.0, -1000.0])
def test_far_off_policy(x64, name, far):
    """A token at exp(+-1000) of the old policy or of the reference: finite loss and gradient, as documented."""
    logp, traj = batch()
    seen = np.argwhere(traj.mask)[::3]
    log_probs = {}
    for field in ("old_logp", "ref_logp"):
        x = np.array(getattr(traj, field))
        x[tuple(seen.T)] -= far
        log_probs[field] = jnp.asarray(x)
    for field, x in log_probs.items():
        out = compiled(name)(logp, traj.replace(**{field: x}))
        for y in out:
            assert np.isfinite(y).all(), field


def test_float32_stays_float32(name):
    """No silent promotion: training runs in float32."""
    logp, traj = batch()
    assert logp.dtype == jnp.float32
    total, count = jax.eval_shape(resolve(*VARIANTS[name]), logp, traj)
    assert (total.dtype, count.dtype) == (jnp.float32, jnp.float32)
    assert (total.shape, count.shape) == ((), ())

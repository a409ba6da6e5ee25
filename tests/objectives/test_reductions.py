"""One objective is another one in a special case: identities, each as two compositions with equal coefficients."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import coefficients
from dsjax.errors import InputError
from dsjax.objectives import ROWS, resolve, surrogate
from dsjax.objectives.aggregation import AGGREGATIONS, aggregate
from tests.objectives.reference import batch, quick_jit

EXACT = 1e-13  # a few dozen operations on numbers of order 1


def without_reward(f):
    return lambda x, t: f(x, t.replace(reward=jnp.zeros_like(t.reward)))


def on_policy(f):
    return lambda x, t: f(x, t.replace(old_logp=x))


def equal_lengths(f):
    """Every sequence full: T_i = S = 9; on-policy."""

    def full(x, t):
        decision = jnp.zeros(x.shape, bool).at[:, 2::3].set(True)
        return f(x, t.replace(sample_mask=~decision, decision_mask=decision, old_logp=x))

    return full


def one_token(f):
    """L = 1 and an immediate stop: all ratios and all normalisers are the same."""

    def first(x, t):
        mask = jnp.zeros(x.shape, bool).at[:, 0].set(True)
        return f(x, t.replace(sample_mask=mask, decision_mask=mask & False))

    return first


def binary(f):
    return lambda x, t: f(x, t.replace(reward=(t.reward > 0.5).astype(t.reward.dtype)))


def over_kept_tokens(f):
    """Divided by the tokens of successes in place of the sequences."""
    return lambda x, t: (f(x, t)[0], jnp.sum(jnp.where(t.reward > 0.5, t.weight * t.num_tokens, 0.0)))


def times(factor: float, f):
    return lambda x, t: (factor * f(x, t)[0], f(x, t)[1])


def uniform(f):
    """All log-probs at -log 2, and still functions of x."""
    return lambda x, t: f(x - jax.lax.stop_gradient(x) - np.log(2), t)


def groups_of_two(f):
    return lambda x, t: f(x, t.replace(group=jnp.asarray([0, 0, 1, 1, 2, 2, 3, 3], jnp.int32)))


EPSILON = {"epsilon": 0.0}
NORMALISED = {"baseline": "group_normalised", "epsilon": 0.0}
REDUCTIONS: dict[str, tuple[Callable, Callable]] = {
    "RLOO is REINFORCE with leave-one-out": (resolve("rloo"), resolve("reinforce", {"baseline": "leave_one_out"})),
    "clipped RLOO on-policy is RLOO": (on_policy(resolve("rloo_clipped")), resolve("rloo")),
    "GSPO is GRPO on-policy": (on_policy(resolve("gspo", EPSILON)), on_policy(resolve("grpo", EPSILON))),
    "CISPO is DAPO on-policy": (on_policy(resolve("cispo", EPSILON)), on_policy(resolve("dapo", EPSILON))),
    "no clip binds at ratio 1": (
        on_policy(resolve("grpo", {**EPSILON, "clip": 1e-9})),
        resolve("grpo", {**EPSILON, "ratio": "none", "clip_rule": "none"}),
    ),
    "GSPO is GRPO over one token": (
        one_token(resolve("gspo", {"clip": 0.2, "clip_high": None})),
        one_token(resolve("grpo")),
    ),
    "DAPO is GRPO over one token": (one_token(resolve("dapo", {"clip_high": None})), one_token(resolve("grpo"))),
    "token mean = sequence mean over equal lengths": (
        equal_lengths(resolve("dapo", EPSILON)),
        equal_lengths(resolve("grpo", EPSILON)),
    ),
    "GRPO over equal lengths is normalised REINFORCE over T": (
        equal_lengths(resolve("grpo", EPSILON)),
        equal_lengths(times(1 / 9, resolve("reinforce", NORMALISED))),
    ),
    "Dr.GRPO is (G - 1)/G RLOO over Lmax": (
        on_policy(groups_of_two(resolve("dr_grpo", {"max_tokens": 5}))),
        groups_of_two(times(1 / 2 / 5, resolve("rloo"))),
    ),
    "k3 x ratio is k2 on-policy": (
        on_policy(resolve("own_token_kl", {"estimator": "k3_ratio"})),
        resolve("own_token_kl", {"estimator": "k2"}),
    ),
    "PPO at lambda = 1 with values 0 is REINFORCE by token mean": (
        on_policy(lambda x, t: resolve("ppo")(x, t.replace(values=jnp.zeros_like(x)))),
        resolve("reinforce", {"aggregation": "token_mean"}),
    ),
    "returns-to-go without KL is REINFORCE": (
        resolve("reinforce", {"baseline": "returns_to_go"}),
        resolve("reinforce"),
    ),
    "SFT is the plain token mean": (resolve("sft"), lambda x, t: aggregate(-x, t, "token_mean")),
    "SFT by sequences is REINFORCE with R = 1": (
        resolve("sft_sequence_sum"),
        lambda x, t: resolve("reinforce")(x, t.replace(reward=jnp.ones_like(t.reward))),
    ),
    "RFT that keeps all is SFT": (resolve("rft", {"threshold": -1.0}), resolve("sft")),
    "RFT on binary returns is REINFORCE without a baseline, over the kept tokens": (
        binary(resolve("rft")),
        binary(over_kept_tokens(resolve("reinforce"))),
    ),
    "DFT where all is uniform is half of SFT": (uniform(resolve("dft")), uniform(times(0.5, resolve("sft")))),
    "LUSPO is normalised REINFORCE on-policy": (
        on_policy(resolve("luspo", EPSILON)),
        resolve("reinforce", NORMALISED),
    ),
    "GMPO without a binding clip is GSPO without one": (
        resolve("gmpo", {"clip": 0.9}),
        resolve("gspo", {"clip": 0.9, "clip_high": 9.0}),
    ),
    "dual clip is a ratio cap": (resolve("grpo", {"dual_clip": 1.4}), resolve("grpo", {"ratio_cap": 1.4})),
    "DRO without its spring, on-policy or not, is REINFORCE": (
        resolve("dro", {"beta": 0.0}),
        resolve("reinforce", {"baseline": "group_normalised", "aggregation": "token_mean"}),
    ),
    "PSR and NSR without a negative weight is RFT by sequences": (
        lambda x, t: resolve("psr_nsr", {"positive_weight": 2.0, "threshold": 0.5})(x, t),
        lambda x, t: resolve("reinforce")(x, t.replace(reward=jnp.where(t.reward >= 0.5, 2.0, -1.0))),
    ),
    "GPG without degenerate groups is REINFORCE with the group mean": (
        resolve("gpg"),
        resolve("reinforce", {"baseline": "group_mean", "aggregation": "token_mean"}),
    ),
    "a caller's count that is the batch's own is the token mean": (
        lambda x, t: surrogate(x, t, aggregation="given_count", tokens_per_sequence=jnp.mean(t.num_tokens)),
        resolve("surrogate", {"aggregation": "token_mean"}),
    ),
    "distillation with g = 0 is the own-token KL by k2": (resolve("distillation"), resolve("own_token_kl")),
    "SimPO without a margin is DPO of means to a uniform reference": (
        resolve("simpo", {"margin": 0.0, "beta": 0.7}),
        lambda x, t: resolve("dpo", {"token_mean": True, "beta": 0.7})(x, t.replace(ref_logp=jnp.zeros_like(x) - 1.0)),
    ),
    "no KL": (resolve("reinforce", {"token_kl": 0.0, "reward_kl": 0.0}), resolve("reinforce")),
    "KL only": (resolve("own_token_kl"), without_reward(resolve("reinforce", {"token_kl": 1.0}))),
    "entropy only": (resolve("entropy_bonus"), without_reward(resolve("reinforce", {"entropy": 1.0}))),
    "trajectory KL": (resolve("trajectory_kl"), without_reward(resolve("reinforce", {"reward_kl": 1.0}))),
    "traced coefficients": (
        lambda x, t: surrogate(x, t, token_kl=jnp.asarray(0.2), entropy=jnp.asarray(0.1), reward_kl=jnp.asarray(0.3)),
        resolve("surrogate", {"token_kl": 0.2, "entropy": 0.1, "reward_kl": 0.3}),
    ),
}


# The atlas reads these rows off others.
REDUCTIONS |= {
    f"{label} is {row.on_policy} on-policy": (
        on_policy(resolve(row.objective, row.options)),
        on_policy(resolve(ROWS[row.on_policy].objective, ROWS[row.on_policy].options)),
    )
    for label, row in ROWS.items()
    if row.on_policy is not None
}


def test_reductions(x64):
    """All of them in one program."""
    logp, traj = batch()

    @quick_jit
    def both(x, t):
        return {n: tuple(coefficients(f, x, t) for f in pair) for n, pair in REDUCTIONS.items()}

    for name, (a, b) in jax.device_get(both(logp, traj)).items():
        np.testing.assert_allclose(a, b, rtol=0, atol=EXACT, err_msg=name)
        assert np.abs(a).max() > 1e-3, name


def test_reductions_need_their_conditions(x64):
    """Controls: off-policy, or with ragged lengths, the same pairs are different objectives."""
    logp, traj = batch()
    pairs = [("gspo", "grpo"), ("cispo", "dapo"), ("dapo", "grpo"), ("rloo_clipped", "rloo")]

    @quick_jit
    def both(x, t):
        return [tuple(coefficients(resolve(f), x, t) for f in pair) for pair in pairs]

    for pair, (a, b) in zip(pairs, both(logp, traj), strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-3, pair


def test_rft_that_keeps_nothing_learns_nothing(x64):
    np.testing.assert_array_equal(resolve("rft", {"threshold": 2.0})(*batch()), (0.0, 0.0))


def test_aggregations(x64):
    logp, traj = batch()
    m, w = np.asarray(traj.mask), np.asarray(traj.weight)
    v = np.where(m, np.asarray(logp), 0.0)
    group, T = np.asarray(traj.group), m.sum(-1)
    expected = {
        "sequence_sum": (w @ v.sum(-1), 1.0),
        "sequence_mean": (w @ (v.sum(-1) / m.sum(-1)), 1.0),
        "token_mean": (w @ v.sum(-1), w @ m.sum(-1)),
        "constant": (w @ v.sum(-1), 9.0),
        "given_count": (w @ v.sum(-1), 2.5),
        "nonempty_sequence_sum": (w @ v.sum(-1), 1.0),
        "nonempty_sequence_mean": (w @ (v.sum(-1) / T), 1.0),
        "prompt_mean": (sum(v[group == g].sum() / T[group == g].sum() for g in range(3)), 3.0),
    }
    assert set(expected) == set(AGGREGATIONS)
    for how, numbers in expected.items():
        n = 2.5 if how == "given_count" else None
        np.testing.assert_allclose(aggregate(logp, traj, how, tokens_per_sequence=n), numbers, rtol=EXACT)
    np.testing.assert_allclose(aggregate(logp, traj, "constant", 4), np.array([w @ v.sum(-1), 4.0]), rtol=EXACT)
    # On an exact law a prompt counts with its probability; an empty row leaves `nonempty` divisors, and no others.
    law = traj.replace(weight=jnp.asarray([0.05, 0.1, 0.2, 0.1, 0.15, 0.2, 0.15, 0.05]), exact=True)
    w = np.asarray(law.weight)
    mass = [w[group == g].sum() for g in range(3)]
    means = [w[group == g] @ v[group == g].sum(-1) / (w[group == g] @ T[group == g]) for g in range(3)]
    np.testing.assert_allclose(aggregate(logp, law, "prompt_mean"), (np.dot(mass, means), 1.0), rtol=EXACT)
    keep = (jnp.arange(8) != 3)[:, None]
    holed = traj.replace(sample_mask=traj.sample_mask & keep, decision_mask=traj.decision_mask & keep)
    counts = {how: float(aggregate(logp, holed, how)[1]) for how in AGGREGATIONS if how != "given_count"}
    assert {how: counts[how] for how in counts if "sequence" in how} == {
        "sequence_sum": 1.0,
        "sequence_mean": 1.0,
        "nonempty_sequence_sum": 0.875,
        "nonempty_sequence_mean": 0.875,
    }
    with pytest.raises(InputError, match="aggregation: received 'mean'; allowed: sequence_sum, sequence_mean"):
        aggregate(logp, traj, "mean")
    for how, longest in (("constant", 0), ("token_mean", 4)):
        with pytest.raises(InputError, match="max_tokens"):
            aggregate(logp, traj, how, longest)

"""What '~' in T14 means, in hand-computed values; larger groups; and where the law with length does not hold."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import signal_to_noise
from dsjax.objectives import reinforce
from dsjax.policies import Params, PositionwisePolicy, SaturatedPolicy, WrappedPolicy
from dsjax.process import DecisionSamplingProcess
from proofs_check.theorems.t14_signal_noise import numeric as t14

pytestmark = pytest.mark.usefixtures("x64")
CENTRED = partial(reinforce, baseline="batch_mean")


def first_token_process(length, rounds=2):
    right = np.arange(2**length) < 2 ** (length - 1)
    return DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray(right, float)[None],
        vocabulary=2,
        length=length,
        rounds=rounds,
    )


class TiedPolicy(WrappedPolicy):
    """One softmax for all positions of an answer."""

    def init(self, key: jax.Array) -> Params:
        params = self.base.init(key)
        return {**params, "sample": params["sample"][:, :1]}

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        sample = jnp.repeat(params["sample"], self.length, axis=1)
        return self.base.log_dists({**params, "sample": sample}, prompt_BxP, answers_BxKxL)


@partial(jax.jit, static_argnames=("policy", "process_length", "objective"))
def of(policy, process_length, params, objective, payoff=None):
    """What the library measures on the process whose first token decides, or with another payoff of its 6."""
    traj = first_token_process(process_length).enumerate_trajectories(policy, params)
    return signal_to_noise(policy, params, traj if payoff is None else traj.replace(reward=payoff), objective)


@partial(jax.jit, static_argnums=(0, 1, 2))
def measured(length, reads=1, tied=False):
    process = first_token_process(length)
    policy = PositionwisePolicy(1, 2, length, reads)
    stop = jnp.repeat(jnp.asarray([1.0, -0.5]), 2 ** (reads - 1))
    decide = jnp.stack([stop, jnp.zeros_like(stop)], -1)[None]
    sample = jnp.asarray([[[0.4, 0.0]]])
    params = {"sample": sample if tied else jnp.repeat(sample, length, axis=1), "decision": decide}
    any_policy = TiedPolicy(policy) if tied else policy
    traj = process.enumerate_trajectories(any_policy, params)
    return signal_to_noise(any_policy, params, traj, CENTRED)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_fair_prompt_has_no_tilde(length):
    """J = 1/2 and r in {0, 1}: w^2 = 1/4 on every trajectory, so M_c = rank F_c / 4."""
    policy = SaturatedPolicy.for_process(first_token_process(length))
    m = of(policy, length, {name: jnp.zeros(shape) for name, shape in policy.shapes().items()}, CENTRED)
    A = 2**length
    assert float(m.moment_sample) == pytest.approx((A - 1) / 4, rel=1e-12)
    assert float(m.moment_decision) == pytest.approx(A / 4, rel=1e-12)


def test_one_binary_choice_is_weighted_by_the_other_branch():
    """M_x = pi_res E[w^2 | STOP] + pi_stop E[w^2 | RESAMPLE]: T = 2, decider blind, p = .5, stop = .9, w = R."""
    policy = PositionwisePolicy(1, 2, 1, reads=0)
    params = {"sample": jnp.zeros((1, 1, 2)), "decision": jnp.log(jnp.asarray([[[0.9, 0.1]]]))}
    m = of(policy, 1, params, reinforce)
    assert float(m.moment_decision) == pytest.approx(0.1 * 0.5 + 0.9 * 0.5, rel=1e-12)
    # Paid only if it stops at a right first answer, p = .75: E[w^2 | RESAMPLE] = 0, and not .9 x .75.
    params["sample"] = params["sample"].at[0, 0, 0].set(np.log(3.0))
    m = of(policy, 1, params, reinforce, jnp.asarray([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert float(m.moment_decision) == pytest.approx(0.1 * 0.75, rel=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_groups(size):
    process = first_token_process(1)
    policy = PositionwisePolicy(1, 2, 1, reads=1)
    params = policy.init(jax.random.key(0))
    baselines = [partial(reinforce, baseline=name) for name in ("none", "leave_one_out", "batch_mean")]

    @jax.jit
    def both(params):
        traj = process.enumerate_trajectories(policy, params)
        payoffs = jnp.stack([t14.centred(traj), traj.reward])
        return (
            traj,
            t14.measure(policy, params, traj, payoffs),
            t14.group_moments(policy, params, traj, baselines, size),
        )

    traj, m, (none, left_out, mean) = both(params)
    J = float(traj.weight @ traj.reward)
    variance = float(traj.weight @ (traj.reward - J) ** 2)
    for i, (signal, moment, rank) in enumerate(
        ((m.signal_sample, m.moment_sample, 1), (m.signal_decision, m.moment_decision, 2))
    ):
        # Signals agree whatever the baseline; without one the members are independent.
        assert float(signal[0]) == pytest.approx(float(signal[1]), rel=1e-12)
        assert float(none[i] - signal[1]) == pytest.approx(float(moment[1] - signal[1]) / size, rel=1e-12)
        stated = t14.group_noise(signal[0], moment[0], jnp.asarray(variance), rank, size)
        assert float(left_out[i] - signal[0]) == pytest.approx(float(stated), rel=1e-12)
        assert float(mean[i]) == pytest.approx(float(left_out[i]) * (1 - 1 / size) ** 2, rel=1e-12)


def test_one_softmax_for_all_positions_has_the_same_ratio():
    """Tied positions: the signal falls as 1/L instead of the noise growing as L."""
    free = [measured(length) for length in (1, 2, 3)]
    tied = [measured(length, 1, True) for length in (1, 2, 3)]
    for length, a, b in zip((1, 2, 3), free, tied, strict=True):
        assert float(a.signal_sample) == pytest.approx(float(free[0].signal_sample), rel=1e-12)
        assert float(b.signal_sample) == pytest.approx(float(free[0].signal_sample) / length, rel=1e-12)
        assert float(a.ratio_sample) == pytest.approx(float(b.ratio_sample), rel=1e-12)
        assert float(a.ratio_decision) == pytest.approx(float(b.ratio_decision), rel=1e-12)


def test_a_decider_with_a_context_for_each_answer_loses_more_than_the_sampler():
    """Counterexample to 'of the decider's .. independent of L': M_d has a term for each decision context."""
    ratios = [measured(length, length) for length in (1, 2, 3)]
    for shorter, longer in pairwise(ratios):
        assert float(longer.signal_decision) == pytest.approx(float(shorter.signal_decision), rel=1e-12)
        assert float(longer.ratio_decision) == pytest.approx(float(shorter.ratio_decision) / 2, rel=1e-12)
    fall_s, fall_d = (
        float(a / b)
        for a, b in (
            (ratios[2].ratio_sample, ratios[0].ratio_sample),
            (ratios[2].ratio_decision, ratios[0].ratio_decision),
        )
    )
    assert fall_d < fall_s


def test_no_signal_no_crossing():
    """The decider reads a token that says nothing about the reward: S_d = 0 at every length, and no L*."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray([[1.0, 0.0, 1.0, 0.0]]),
        vocabulary=2,
        length=2,
        rounds=2,
    )

    @jax.jit
    def closed(key):
        e = t14.exact(process, PositionwisePolicy(1, 2, 2, 1).init(key), reads=1)
        return t14.moments(e, jnp.sum(e.law * e.reward))

    m = closed(jax.random.key(1))
    assert float(m.signal_d) < 1e-30
    assert not float(t14.crossing_filler(m, 2)) < 1e20


def test_deviation_from_l_times_v_minus_one_grows_like_the_root_of_l():
    """Tokens that the verifier reads: |M_s - (V-1) L per-visit mean| <= const sqrt(L), by enumeration."""

    @partial(jax.jit, static_argnums=0)
    def excess_and_bound(length):
        table = jax.random.bernoulli(jax.random.key(length), 0.5, (1, 2**length)).astype(float)
        process = DecisionSamplingProcess.create(
            prompt_law=jnp.ones(1), reward_table=table, vocabulary=2, length=length, rounds=1
        )
        e = t14.exact(process, PositionwisePolicy(1, 2, length, 0).init(jax.random.key(2)), reads=0)
        J = jnp.sum(e.law * e.reward)
        m = t14.moments(e, J)
        return jnp.abs(jnp.sum(m.moments_s) - length * m.per_visit), t14.root_bound(e, J, 0, 2)

    for length in (2, 8):
        excess, bound = (float(x) for x in excess_and_bound(length))
        assert excess <= bound <= 4 * np.sqrt(length)

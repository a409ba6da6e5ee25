"""Sampling: keys, temperature, recorded log-probs, frequencies, stopping."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.policies import (
    PositionwisePolicy,
    Rounds,
    SaturatedPolicy,
    SharedPolicy,
    TransformerPolicy,
    log_probs,
    sample,
    to_trajectories,
)
from dsjax.policies.microbatch import InParts
from dsjax.policies.rollout import require_temperature
from dsjax.trajectories import RESAMPLE, STOP

ROUNDS, DRAWS = 3, 4000
# A log-softmax of at most 3 logits, computed twice with a division by the temperature in between: a few eps.
F32 = 16 * float(np.finfo(np.float32).eps)

POLICIES = {
    "saturated-none": SaturatedPolicy(2, 2, 2, ROUNDS, "none"),
    "saturated-full": SaturatedPolicy(2, 2, 2, ROUNDS, "full"),
    "positionwise": PositionwisePolicy(2, 3, 2, reads=2),
    "shared-full": SharedPolicy.random(SaturatedPolicy(2, 2, 2, ROUNDS, "full"), 6, jax.random.key(0)),
}


@jax.jit
def log_dists(policy, params, prompt, answers):
    return policy.log_dists(params, prompt, answers)


laid_out = jax.jit(to_trajectories, static_argnames="num_groups")


def prompts(n: int) -> jax.Array:
    return jnp.asarray((np.arange(n, dtype=np.int32) % 2)[:, None])


@pytest.fixture(scope="module", params=POLICIES)
def sampled(request):
    policy = POLICIES[request.param]
    params = policy.init(jax.random.key(7))
    return policy, params, sample(policy, params, prompts(DRAWS), jax.random.key(0), rounds=ROUNDS)


def test_tabular_policies_roll_out(sampled):
    policy, _, drawn = sampled
    assert drawn.answers.shape == (DRAWS, ROUNDS, 2)
    assert drawn.answers.dtype == jnp.int32
    assert drawn.decisions.shape == (DRAWS, ROUNDS)
    assert drawn.logp_answers.shape == (DRAWS, ROUNDS, 2)
    assert drawn.log_decision.shape == (DRAWS, ROUNDS, 2)
    assert set(np.unique(drawn.decisions)) == {STOP, RESAMPLE}
    assert set(np.unique(drawn.answers)) == set(range(3 if isinstance(policy, PositionwisePolicy) else 2))


def test_the_recorded_log_probs_are_the_policys(sampled):
    policy, params, drawn = sampled
    log_s, log_d = log_dists(policy, params, prompts(DRAWS), drawn.answers)
    chosen = np.take_along_axis(np.asarray(log_s), np.asarray(drawn.answers)[..., None], -1)[..., 0]
    np.testing.assert_allclose(drawn.logp_answers, chosen, rtol=0, atol=F32)
    np.testing.assert_allclose(drawn.log_decision, log_d, rtol=0, atol=F32)


def test_frequencies_are_the_recorded_law(sampled):
    """Drawn minus expected count of an event is a martingale of bounded steps: |z| > 5 has odds of about 1e-6.

    At every slot, sum over draws of (1[token = v] - p_v) has variance sum p_v (1 - p_v), whatever the contexts are.
    """
    policy, params, drawn = sampled
    log_s, log_d = log_dists(policy, params, prompts(DRAWS), drawn.answers)
    slots = [(np.asarray(drawn.answers), np.exp(np.asarray(log_s, float)))]
    slots.append((np.asarray(drawn.decisions), np.exp(np.asarray(log_d, float))))
    for drawn, law in slots:
        hit = drawn[..., None] == np.arange(law.shape[-1])
        z = (hit - law).sum(0) / np.sqrt((law * (1 - law)).sum(0))
        assert np.abs(z).max() < 5
        for q in (0, 1):  # and at each prompt
            z = (hit - law)[q::2].sum(0) / np.sqrt((law * (1 - law))[q::2].sum(0))
            assert np.abs(z).max() < 5


def test_a_policy_in_parts_is_sampled_from_as_it_is():
    """Decoding is passed on, to a policy without a cache too."""
    policy = POLICIES["saturated-full"]
    params = policy.init(jax.random.key(7))
    draws = (sample(p, params, prompts(8), jax.random.key(0), rounds=ROUNDS) for p in (policy, InParts(policy, 4)))
    assert_equal(*draws)


def test_explicit_keys_decide_everything():
    policy = POLICIES["positionwise"]
    params = policy.init(jax.random.key(7))

    def draw(seed: int) -> Rounds:
        return sample(policy, params, prompts(64), jax.random.key(seed), rounds=ROUNDS)

    one, again, other = (jax.tree.map(np.asarray, draw(seed)) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one.answers != other.answers).any()
    assert (one.decisions != other.decisions).any()
    assert (one.answers[:, 0] != one.answers[:, 1]).any()  # rounds do not share their randomness
    assert (one.answers[0::2] != one.answers[:1]).any()  # nor do episodes


@pytest.mark.parametrize("name", POLICIES)
def test_temperature_divides_the_logits(name):
    policy = POLICIES[name]
    params = policy.init(jax.random.key(7))
    hot = sample(policy, params, prompts(64), jax.random.key(0), rounds=ROUNDS, temperature=2.5)
    log_s, log_d = (
        np.asarray(jax.nn.log_softmax(x / 2.5)) for x in log_dists(policy, params, prompts(64), hot.answers)
    )
    chosen = np.take_along_axis(log_s, np.asarray(hot.answers)[..., None], -1)[..., 0]
    np.testing.assert_allclose(hot.logp_answers, chosen, rtol=0, atol=F32)
    np.testing.assert_allclose(hot.log_decision, log_d, rtol=0, atol=F32)
    base = log_dists(policy, params, prompts(64), hot.answers)[1]
    assert np.abs(np.asarray(base) - np.asarray(hot.log_decision)).max() > 0.1


def test_a_second_call_does_not_compile_again():
    policy = POLICIES["positionwise"]
    draw: Any = sample
    for seed, temperature in ((0, 1.0), (1, 0.5), (2, 3.0)):
        params = policy.init(jax.random.key(seed))
        draw(policy, params, prompts(8), jax.random.key(seed), rounds=2, temperature=temperature)
        if seed == 0:
            compiled = draw._cache_size()
    assert draw._cache_size() == compiled


def rounds_with(decisions: list[list[int]]) -> Rounds:
    B, T = len(decisions), len(decisions[0])
    log_decision = np.log(np.broadcast_to(np.asarray([0.25, 0.75], np.float32), (B, T, 2)))
    answers = np.arange(B * T * 2, dtype=np.int32).reshape(B, T, 2) % 3
    half = np.full((B, T, 2), -0.5, np.float32)
    return Rounds(*map(jnp.asarray, (answers, np.asarray(decisions, np.int32), half, log_decision)))


def test_stop_round_and_forced_stop():
    """Stops at the first STOP, else at the last round, whose decision is drawn but has no effect and no log-prob."""
    drawn = rounds_with([[STOP, RESAMPLE, STOP], [RESAMPLE, STOP, STOP], [RESAMPLE] * 3, [RESAMPLE, RESAMPLE, 0]])
    np.testing.assert_array_equal(drawn.stop_round, [0, 1, 2, 2])
    score = jnp.asarray([[0.1, 0.2, 0.4]] * 4)
    traj = laid_out(prompts(4), drawn, score, cost=0.05)
    traj.validate()
    np.testing.assert_allclose(traj.reward, [0.1, 0.15, 0.3, 0.3], rtol=1e-6)
    np.testing.assert_allclose(traj.weight, 0.25)
    np.testing.assert_array_equal(
        traj.blocks(traj.decision_mask, 2)[..., 2], [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0]]
    )
    assert traj.old_logp is not None
    stop, resample = np.log(0.25), np.log(0.75)
    want = [[stop, 0, 0], [resample, stop, 0], [resample, resample, 0], [resample, resample, 0]]
    np.testing.assert_allclose(traj.blocks(traj.old_logp, 2)[..., 2], want, rtol=1e-6)
    np.testing.assert_array_equal(
        traj.blocks(traj.old_logp, 2)[..., 0], [[-0.5, 0, 0], [-0.5, -0.5, 0], [-0.5] * 3, [-0.5] * 3]
    )


def test_trajectories_record_the_log_probs_of_log_probs(sampled):
    policy, params, drawn = sampled
    traj = laid_out(prompts(DRAWS), drawn, jnp.ones((DRAWS, ROUNDS)), num_groups=2, group=prompts(DRAWS)[:, 0])
    traj.validate()
    assert traj.old_logp is not None
    np.testing.assert_allclose(traj.old_logp, jax.jit(log_probs)(policy, params, traj), rtol=0, atol=F32)
    np.testing.assert_array_equal(traj.group, prompts(DRAWS)[:, 0])


def test_one_round_is_always_kept():
    policy = POLICIES["positionwise"]
    params = policy.init(jax.random.key(0))
    drawn = sample(policy, params, prompts(8), jax.random.key(0), rounds=1)
    np.testing.assert_array_equal(drawn.stop_round, 0)
    assert not laid_out(prompts(8), drawn, jnp.ones((8, 1))).decision_mask.any()


def test_errors_name_the_field():
    policy = POLICIES["positionwise"]
    with pytest.raises(InputError, match="rounds: received 0"):
        sample(policy, policy.init(jax.random.key(0)), prompts(2), jax.random.key(0), rounds=0)
    require_temperature(0.5)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="temperature"):
            require_temperature(bad)


@pytest.mark.parametrize("stops", ["by chance", "at once"])
def test_rounds_that_nobody_comes_to_are_not_drawn(stops):
    policy = TransformerPolicy(
        prompt_vocabulary=3,
        prompt_length=1,
        vocabulary=3,
        length=2,
        rounds=3,
        layers=1,
        width=8,
        heads=2,
        history="full",
    )
    params = jax.jit(policy.init)(jax.random.key(0))
    bias = jnp.array([50.0, -50.0]) if stops == "at once" else jnp.zeros(2)
    params = {**params, "decide_head": {**params["decide_head"], "bias": bias}}
    prompt, key = jnp.zeros((16, 1), jnp.int32), jax.random.key(1)
    early = sample(policy, params, prompt, key, rounds=3, stop_early=True)
    every = sample(policy, params, prompt, key, rounds=3)
    assert_equal(seen(prompt, early), seen(prompt, every))
    last = int(early.stop_round.max())
    assert last == (0 if stops == "at once" else 2)
    assert np.all(np.asarray(early.logp_answers[:, last + 1 :]) == 0)
    assert np.all(np.asarray(every.logp_answers) < 0)  # the control: otherwise they are drawn


def seen(prompt: jax.Array, drawn: Rounds):
    """Trajectories without the tokens that no mask shows."""
    traj = laid_out(prompt, drawn, jnp.zeros((16, 3)))
    return traj.replace(tokens=np.where(traj.mask, traj.tokens, 0))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)

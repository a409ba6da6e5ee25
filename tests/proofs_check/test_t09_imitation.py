"""T9: deciders between blind and saturated, the way to the optimum, and what the statement does not say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.evaluation.accounting import final_accuracy, limit_parts
from dsjax.objectives import sft
from dsjax.policies import History, PositionwisePolicy, SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import RESAMPLE, STOP

pytestmark = pytest.mark.usefixtures("x64")

ROUNDS = 3
RIGHT = (0, 1)  # the right answer; (0, 0) shares its first token


def process_of(history: History = "none") -> DecisionSamplingProcess:
    return DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray([[0.0, 1.0, 0.0, 0.0]]),
        vocabulary=2,
        length=2,
        rounds=ROUNDS,
        history=history,
    )


def success_only(process):
    """The right answer, STOP; nothing else."""
    support = process.support()
    first = jnp.sum(jnp.where(support.mask, support.round, 0), -1) == 0
    chosen = jnp.where(first, support.reward, 0.0)
    return support.replace(weight=chosen / jnp.sum(chosen))


def ascended(policy, params, demos, steps=400, rate=20.0):
    """Parameters after plain gradient ascent on the likelihood."""

    def step(p, _):
        gradient = component_gradients(policy, p, demos, sft).total
        return jax.tree.map(lambda x, g: x + rate * g, p, gradient), None

    return jax.lax.scan(step, params, length=steps)[0]


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_wrong_answers_that_look_like_right_ones_are_kept_too(reads):
    """A decider that reads `reads` tokens: imitation stops at all answers that share them with a shown one."""
    process = process_of()
    policy = PositionwisePolicy(1, 2, 2, reads=reads)
    before = {"sample": jnp.zeros((1, 2, 2)), "decision": jnp.zeros((1, 2**reads, 2))}

    @jax.jit
    def learnt():
        demos = success_only(process)
        after = ascended(policy, before, demos)
        kept = {**before, "decision": after["decision"]}  # the sampler as it was: what the decider alone brings
        traj = process.enumerate_trajectories(policy, kept)
        return after["decision"], jnp.sum(traj.weight * traj.reward)

    decide, accuracy = learnt()
    stop = np.asarray(jax.nn.softmax(decide))[0, :, STOP]
    cell = {0: 0, 1: RIGHT[0], 2: 2 * RIGHT[0] + RIGHT[1]}[reads]
    assert stop[cell] > 0.999
    others = np.delete(np.asarray(decide)[0], cell, axis=0)
    np.testing.assert_array_equal(others, 0.0)
    # b: wrong answers of the same cell are kept, the others as before.
    together = {0: 3, 1: 1, 2: 0}[reads]
    a, b = stop[cell], (together * stop[cell] + (3 - together) * 0.5) / 3
    assert float(accuracy) == pytest.approx(float(final_accuracy(0.25, a, b, ROUNDS)), abs=1e-12)
    if reads == 0:
        assert float(accuracy) == pytest.approx(0.25, abs=1e-12)


def test_a_saturated_decider_does_gain_from_right_answers_alone():
    """Not "teaches nothing": a -> 1 while b stays, so the log-odds rise, in the limit of many rounds by log(1/a)."""
    p, before = 0.25, 0.5
    for rounds in (2, 3, 50):
        old, new = final_accuracy(p, before, before, rounds), final_accuracy(p, 1.0, before, rounds)
        assert float(old) == pytest.approx(p, abs=1e-15)
        assert float(new) > p + 0.05
    rise = sum(limit_parts(p, 1.0, before)) - limit_parts(p, 1.0, 1.0).sampler
    assert rise == pytest.approx(np.log(2), abs=1e-12)


def test_accuracy_of_a_blind_decider_is_first_attempt_accuracy_whatever_it_was_taught():
    """Memoryless: that is blindness (a = b), not imitation. A sampler that learns from its history tells them apart."""
    p = jnp.asarray([0.1, 0.6])
    for stop in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(final_accuracy(p, jnp.full(2, stop), jnp.full(2, stop), 4), p, atol=1e-15)
    process = process_of("full")
    policy = SaturatedPolicy.for_process(process)
    shapes = policy.shapes()
    # After any wrong first answer the sampler is right with probability .81 instead of .25.
    sample = jnp.zeros(shapes["sample"]).at[0, 1:, :].set(jnp.log(jnp.asarray([0.5, 0.5])))
    sample = (
        sample.at[0, 1:, 0].set(jnp.log(jnp.asarray([0.9, 0.1]))).at[0, 1:, 1].set(jnp.log(jnp.asarray([0.1, 0.9])))
    )

    @jax.jit
    def accuracy(stop):
        decide = jnp.broadcast_to(jnp.stack([stop, 0.0]), shapes["decision"])
        traj = process.enumerate_trajectories(policy, {"sample": sample, "decision": decide})
        return jnp.sum(traj.weight * traj.reward)

    assert float(accuracy(jnp.asarray(800.0))) == pytest.approx(0.25, abs=1e-15)
    assert float(accuracy(jnp.asarray(0.0))) == pytest.approx(0.5 * 0.25 + 0.5 * 0.81, abs=1e-12)


def test_the_optimum_is_approached_and_never_reached():
    """Gradient ascent: pi_stop rises at every step count, wrong answers keep their logits bit for bit."""
    process = process_of()
    policy = SaturatedPolicy.for_process(process)
    before = policy.init(jax.random.key(0))

    @jax.jit
    def path():
        demos = success_only(process)
        return [ascended(policy, before, demos, steps)["decision"][0, 0] for steps in (0, 10, 100, 1000)]

    decide = np.asarray(path())
    right = 2 * RIGHT[0] + RIGHT[1]
    wrong = [y for y in range(4) if y != right]
    for later in decide[1:]:
        np.testing.assert_array_equal(later[wrong], decide[0][wrong])
    gap = decide[:, right, STOP] - decide[:, right, RESAMPLE]
    assert (np.diff(gap) > 0).all()
    assert gap[-1] < 36  # 1 - pi_stop is still a positive number

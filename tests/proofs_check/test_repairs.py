"""Sentences that docs/theory.md once said too broadly: the counterexamples, and what holds instead."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients, energies, fisher
from dsjax.evaluation.accounting import final_accuracy, shapley
from dsjax.objectives import reinforce, sft
from dsjax.policies import PositionwisePolicy, SaturatedPolicy, SharedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP
from proofs_check.closed_forms import context_counts
from proofs_check.statement import STATEMENTS

pytestmark = pytest.mark.usefixtures("x64")
RIGHT, WRONG = 0, 1
KL = {
    "trajectory": lambda beta: partial(reinforce, reward_kl=beta),
    "own-token": lambda beta: partial(reinforce, token_kl=beta, kl_estimator="k2"),
}


def logit(p):
    return jnp.log(p) - jnp.log1p(-p)


def memoryless(table=(1.0, 0.0), rounds=2, length=1, cost=0.0):
    """One prompt, two symbols, no history."""
    return DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1),
        reward_table=jnp.asarray([table]),
        vocabulary=2,
        length=length,
        rounds=rounds,
        cost=cost,
    )


def test_t1_is_our_reading():
    assert STATEMENTS["T1"].provenance == "[R]"


# T5.


def demonstrations(last):
    """A random law on the trajectories that stop by that round, of three, and the policy that learns from them."""
    process = memoryless(rounds=3)
    policy = SaturatedPolicy.for_process(process)

    @jax.jit
    def made():
        params = policy.init(jax.random.key(0))
        traj = process.enumerate_trajectories(policy, params)
        law = jnp.where(stop_round(traj) <= last, jax.random.uniform(jax.random.key(1), traj.weight.shape), 0.0)
        return params, traj.replace(weight=law / law.sum())

    return process, policy, *made()


def stop_round(traj):
    return 1 + jnp.max(jnp.where(traj.mask, traj.round, 0), axis=-1)


@pytest.mark.parametrize("last", [2, 3])
def test_t5_delta_is_one_iff_no_demonstration_reaches_the_last_round(last):
    process, _, _, demos = demonstrations(last)
    tau, law = np.asarray(stop_round(demos)), np.asarray(demos.weight)
    delta = float(context_counts(process, demos.weight)["decision"].sum()) / (law * tau).sum()
    assert delta == pytest.approx(1 - law[tau == process.rounds].sum() / (law * tau).sum(), abs=1e-14)
    assert (delta == pytest.approx(1, abs=1e-14)) == (last < process.rounds)


def test_t5_a_softmax_of_several_rounds_learns_their_mixture_and_loses_energy():
    process, policy, params, demos = demonstrations(last=3)
    measured = jax.jit(lambda p: energies(policy, p, demos, component_gradients(policy, p, demos, sft)))(params)
    pi = {name: np.asarray(jax.nn.softmax(x)) for name, x in params.items()}
    demos = jax.tree.map(np.asarray, demos)

    def chi2(counts):
        """(sampler, decider): sum over contexts of n chi2, N^2 E of the statement."""

        def one(k, p):
            n = k.sum(-1, keepdims=True)
            return ((k - n * p) ** 2 / (np.where(n > 0, n, 1) * p)).sum()

        return np.array([one(counts[name], pi[name]) for name in ("sample", "decision")])

    def of_round(t):
        """Draws of that round, counted token by token."""
        sample, decide = np.zeros(pi["sample"].shape), np.zeros(pi["decision"].shape)
        for tokens, rounds, drawn, decided, weight in zip(
            demos.tokens, demos.round, demos.sample_mask, demos.decision_mask, demos.weight, strict=True
        ):
            for i in np.flatnonzero((rounds == t) & (drawn | decided)):
                table, context = (decide, tokens[i - 1]) if decided[i] else (sample, 0)
                table[0, 0, context, tokens[i]] += weight
        return {"sample": sample, "decision": decide}

    rounds = [of_round(t) for t in range(process.rounds)]
    mixture = jax.tree.map(lambda *x: sum(x), *rounds)
    tokens = sum(x.sum() for x in mixture.values())
    np.testing.assert_allclose(measured, chi2(mixture) / tokens**2, atol=1e-12)
    assert np.all(chi2(mixture) < sum(map(chi2, rounds)) - 1e-3)


# T7.


@cache
def stop_gradient(kl):
    """T = 2, L = 1: a program (beta, D, drift, cost) -> (f[2] gradient on STOP at right and wrong answer, K).

    `D`: f[2] log-odds of STOP over those of the reference. `drift`: log-odds of the sampler over those of its
    reference; V = 1/2, and K is the KL of one answer.
    """
    process = memoryless()
    policy = SaturatedPolicy.for_process(process)
    zero = {name: jnp.zeros(shape) for name, shape in policy.shapes().items()}

    @jax.jit
    def measured(beta, D, drift, cost):
        params = {**zero, "decision": zero["decision"].at[0, 0, :, STOP].set(D)}
        reference = {**zero, "sample": zero["sample"].at[..., 0].set(-drift)}
        traj = process.replace(cost=cost).enumerate_trajectories(policy, params)
        traj = traj.replace(ref_logp=log_probs(policy, reference, traj))
        K = jnp.mean(jax.nn.log_softmax(params["sample"]) - jax.nn.log_softmax(reference["sample"]))
        gradient = component_gradients(policy, params, traj, KL[kl](beta)).decision["decision"][0, 0, :, STOP]
        return gradient, K if kl == "trajectory" else jnp.zeros(())

    return lambda *numbers: jax.device_get(measured(*(jnp.asarray(x, float) for x in numbers)))


@pytest.mark.parametrize("kl", KL)
def test_t7_away_from_the_reference_either_kl_turns_both_answers(kl):
    """D = 4 at the right and -3 at the wrong answer: RESAMPLE what is right, STOP at what is wrong."""
    before, after = (stop_gradient(kl)(beta, (4, -3), 0.3, 0)[0] for beta in (0.1, 0.25))
    assert before[RIGHT] > 1e-4
    assert before[WRONG] < -1e-4
    assert after[RIGHT] < -1e-4
    assert after[WRONG] > 1e-4


@pytest.mark.parametrize("kl", KL)
@pytest.mark.parametrize("cost", [0.0, 0.2])
@pytest.mark.parametrize("D", [4.0, 0.01, 0.0, -3.0])
def test_t7_turns_where_the_three_cases_say(kl, cost, D):
    def push(beta):
        return stop_gradient(kl)(beta, (D, D), 1.0, cost)[0]

    K, V = stop_gradient(kl)(0, (D, D), 1.0, cost)[1], 0.5
    for answer, r in ((RIGHT, 1.0), (WRONG, 0.0)):
        apart = (r - V + cost) * (D - K) > 0  # reward and KL pull apart
        turn = (r - V + cost) / (D - K) if apart else 1.0
        before, after = (0.99, 1.01) if apart else (1e-3, 1e3)
        assert np.sign(push(before * turn)[answer]) == np.sign(r - V + cost)
        assert np.sign(push(after * turn)[answer]) == np.sign(r - V + cost) * (-1 if apart else 1)


# T8.


def pushes(last):
    """f[A] gradients on STOP of reward and of SFT on demonstrations without mistakes up to that round; rewards."""
    process = memoryless((1.0, 0.0, 0.0, 1.0), rounds=3, length=2)
    policy = SaturatedPolicy.for_process(process)

    @jax.jit
    def measured():
        params = policy.init(jax.random.key(2))
        traj = process.enumerate_trajectories(policy, params)
        kept = jnp.where(without_mistakes(process, traj) & (stop_round(traj) <= last), 1.0, 0.0)
        demos = traj.replace(weight=kept / jnp.sum(kept))
        found = [component_gradients(policy, params, *pair) for pair in ((traj, reinforce), (demos, sft))]
        return [g.decision["decision"][0, 0, :, STOP] for g in found]

    return *map(np.asarray, measured()), np.asarray(process.reward_table[0])


def without_mistakes(process, traj):
    """bool[B]: every decision is STOP iff the answer is right."""
    blocks = traj.blocks(traj.tokens, process.length)  # the answers' tokens and the decision of each round
    right = process.reward_table[0][blocks[..., 0] * 2 + blocks[..., 1]] == 1
    decided = traj.blocks(traj.decision_mask, process.length)[..., -1]
    return jnp.all(~decided | ((blocks[..., -1] == STOP) == right), axis=-1)


def test_t8_demonstrations_without_mistakes_push_as_reward_does():
    reward, imitation, r = pushes(last=3)
    np.testing.assert_array_equal(np.sign(reward), np.sign(r - 0.5))
    np.testing.assert_array_equal(np.sign(imitation), np.sign(reward))


def test_t8_what_sets_imitation_apart_is_where_it_is_silent():
    reward, imitation, r = pushes(last=1)
    assert np.all(reward != 0)
    np.testing.assert_array_equal(imitation[r == 0], 0.0)
    assert np.all(imitation[r == 1] > 0)


# T10.


def test_t10_a_new_sampler_can_change_a_over_b_with_an_untouched_decider():
    """All 1.046 nats of log(a/b) are the sampler's, though its logit(p) does not move."""
    right, T = jnp.asarray([1.0, 0.0, 0.0]), 400
    old, new = jnp.asarray([0.5, 0.4, 0.1]), jnp.asarray([0.5, 0.1, 0.4])
    decider = jnp.asarray([0.5, 0.9, 0.1])

    def rates(sampler, stop):
        p = jnp.sum(sampler * right)
        return p, jnp.sum(sampler * right * stop) / p, jnp.sum(sampler * (1 - right) * stop) / (1 - p)

    def log_odds(sampler, stop):
        return logit(final_accuracy(*rates(sampler, stop), T))

    parts = shapley(log_odds, (old, decider), (new, decider))
    (p_0, a_0, b_0), (p_1, a_1, b_1) = rates(old, decider), rates(new, decider)
    assert float(logit(p_1) - logit(p_0)) == pytest.approx(0, abs=1e-12)
    assert float(jnp.log(a_1 / b_1) - jnp.log(a_0 / b_0)) == pytest.approx(1.046, abs=1e-3)
    assert float(parts.sampler) == pytest.approx(1.046, abs=1e-3)
    assert float(parts.decider) == pytest.approx(0, abs=1e-12)


def test_t10_limits_of_the_parts_on_real_swaps():
    """Sampler: logit(p) and the mean over deciders of what it does to log(a/b). Decider: the mean over samplers."""
    right = jnp.asarray([1.0, 1.0, 0.0, 0.0])
    samplers = jax.nn.softmax(jax.random.normal(jax.random.key(3), (2, 4)))
    deciders = jax.nn.sigmoid(jax.random.normal(jax.random.key(4), (2, 4)))

    def rates(s, d):
        ends, p = samplers[s] * deciders[d], jnp.sum(samplers[s] * right)
        return p, jnp.sum(ends * right) / p, jnp.sum(ends * (1 - right)) / (1 - p)

    def mix(s, d):
        _, a, b = rates(s, d)
        return float(jnp.log(a / b))

    parts = shapley(lambda s, d: logit(final_accuracy(*rates(s, d), 400)), (0, 0), (1, 1))
    moved = float(logit(rates(1, 0)[0]) - logit(rates(0, 0)[0]))
    by_sampler = (mix(1, 0) - mix(0, 0) + mix(1, 1) - mix(0, 1)) / 2
    by_decider = (mix(0, 1) - mix(0, 0) + mix(1, 1) - mix(1, 0)) / 2
    assert abs(by_sampler) > 0.05
    np.testing.assert_allclose((parts.sampler, parts.decider), (moved + by_sampler, by_decider), atol=1e-10)


# T11.


def test_t11_a_class_without_the_optimum_can_feel_length():
    """Right if both bits agree: one of four symbols is tilted at beta = 1, two independent bits are best left alone."""
    beta, bits = 1.0, memoryless((1.0, 0.0, 0.0, 1.0), rounds=1, length=2)
    policy = PositionwisePolicy(1, 2, 2, reads=0)
    grid = jnp.linspace(-2, 2, 41)

    @jax.jit
    @jax.vmap
    def objective(logits_2):
        params = policy.init(jax.random.key(0))
        params = {**params, "sample": jnp.stack([logits_2, jnp.zeros(2)], axis=-1)[None]}
        traj = bits.enumerate_trajectories(policy, params)
        log_ratio = jnp.sum(log_probs(policy, params, traj), -1) - jnp.log(0.25)
        return jnp.sum(traj.weight * (traj.reward - beta * log_ratio))

    value = objective(jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2))
    one_symbol = float(beta * jnp.log(jnp.mean(jnp.exp(jnp.asarray([1.0, 0.0, 0.0, 1.0]) / beta))))
    assert float(value.max()) == pytest.approx(0.5, abs=1e-12)  # at the reference, logits 0
    assert one_symbol > 0.6


# T14.


def ranks(policy, length):
    """[rank F_s, rank F_d] of one prompt and two rounds."""
    process = memoryless(tuple(float(i == 0) for i in range(2**length)), length=length)

    @jax.jit
    def fishers():
        params = policy.init(jax.random.key(5))
        return fisher(policy, params, process.enumerate_trajectories(policy, params))

    return [int(np.linalg.matrix_rank(np.asarray(F), rtol=1e-10)) for F in fishers()]


@pytest.mark.parametrize("length", [1, 3])
def test_t14_the_noise_of_a_decider_that_reads_the_answer_grows_with_length(length):
    assert ranks(PositionwisePolicy(1, 2, length, reads=1), length) == [length, 2]
    assert ranks(PositionwisePolicy(1, 2, length, reads=length), length) == [length, 2**length]
    shared = SharedPolicy.random(SaturatedPolicy(1, 2, length, 2), 3, jax.random.key(6))
    assert max(ranks(shared, length)) <= 3

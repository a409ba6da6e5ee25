"""The exact layer against brute force: enumeration, values, advantages, visitation, gradients, bad input."""

from __future__ import annotations

import functools
import time
import tracemalloc
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dsjax.errors import InputError
from dsjax.policies import SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess, ProcessTooLargeError
from dsjax.trajectories import RESAMPLE, STOP, Trajectories
from tests import oracle
from tests.cases import MIDDLE, SHAPES, SMALL, TIGHT, Case, Shape, layout, make_case, support

CASES = [(shape, cost) for shape in SHAPES for cost in (0.0, 0.15)]
IDS = [f"V{s.vocabulary}-L{s.length}-T{s.rounds}-Q{s.prompts}-{s.history}-c{cost}" for s, cost in CASES]


@jax.jit
def exact(process, policy, params):
    """Everything the exact layer computes, in one compilation per shape (the cost is an array)."""
    traj = process.enumerate_trajectories(policy, params)
    tables = process.tables(traj.old_logp)
    values = process.values(tables)

    def objective(p):
        return process.expected_return(process.tables(log_probs(policy, p, traj)))

    J, gradient = jax.value_and_grad(objective)(params)
    return {
        "traj": traj,
        "values": values,
        "visitation": process.visitation(tables),
        "token_advantages": process.token_advantages(values),
        "J": J,
        "gradient": gradient,
        "drift": process.values(tables, process.join(process.split(jnp.sin(traj.old_logp).sum(-1)))),
        "tables": tables,
    }


@functools.lru_cache
def solved(shape: Shape, cost: float) -> tuple[Case, dict, list[oracle.Trajectory]]:
    with jax.enable_x64(True):
        case = make_case(shape, cost, seed=shape.vocabulary + 10 * shape.rounds)
        return case, jax.device_get(exact(case.process, case.policy, case.params)), oracle.enumerate_toy(case.toy)


@pytest.fixture(params=CASES, ids=IDS, scope="module")
def result(request):
    return solved(*request.param)


def answers_in(traj: Trajectories, i: int, shape_length: int) -> tuple[tuple[int, ...], ...]:
    """Answers of trajectory i, read from tokens and masks alone."""
    rows = np.asarray(traj.tokens[i]).reshape(-1, shape_length + 1)
    drawn = np.asarray(traj.sample_mask[i]).reshape(-1, shape_length + 1)
    return tuple(tuple(map(int, row[:-1])) for row, on in zip(rows, drawn, strict=True) if on.any())


def nodes_by_round(case: Case, t: int):
    """(prompt, history index, history) of every state with t earlier answers."""
    for q in range(len(case.toy.prompt_law)):
        for h, history in enumerate(oracle.histories_of(case.toy, t)):
            yield q, h, history


def test_enumeration_lists_every_trajectory_once_in_the_documented_order(result):
    case, out, brute = result
    traj, L = out["traj"], case.process.length
    assert traj.tokens.shape == (case.process.num_trajectories, case.process.rounds * (L + 1))
    listed = [(int(traj.prompt[i, 0]), answers_in(traj, i, L)) for i in range(len(traj.reward))]
    assert listed == [(w.prompt, w.answers) for w in brute]
    assert len(set(listed)) == len(listed)
    for i, w in enumerate(brute):
        decisions = np.asarray(traj.tokens[i])[np.asarray(traj.decision_mask[i])]
        assert list(decisions) == [f.choice for f in w.factors if f.component == "decision"]
        assert int(traj.sample_mask[i].sum()) == L * len(w.answers)


def test_weights_are_the_law_and_rewards_the_returns(result):
    _, out, brute = result
    traj = out["traj"]
    np.testing.assert_allclose(traj.weight, [w.probability for w in brute], rtol=0, atol=TIGHT)
    np.testing.assert_allclose(traj.reward, [w.reward for w in brute], rtol=0, atol=TIGHT)
    assert abs(traj.weight.sum() - 1) < TIGHT
    assert traj.exact
    assert traj.validate() is None
    # old_logp holds the log of each factor, on its own token.
    factors = [np.asarray(row)[np.asarray(m)] for row, m in zip(traj.old_logp, traj.mask, strict=True)]
    tables = {"sample": result[0].toy.sample, "decision": result[0].toy.decision}
    for row, w in zip(factors, brute, strict=True):
        np.testing.assert_allclose(
            row, [np.log(tables[f.component][f.context][f.choice]) for f in w.factors], atol=TIGHT
        )


def test_values_and_advantages_are_conditional_averages(result):
    case, out, brute = result
    values, nodes = out["values"], oracle.conditional(brute)
    answers = oracle.answers_of(case.toy.vocabulary, case.toy.length)
    for t in range(case.toy.rounds):
        assert values.V[t].shape == (len(case.toy.prompt_law), len(answers) ** t)
        for q, h, history in nodes_by_round(case, t):
            V = nodes.mean[q, history, ()]
            assert abs(values.V[t][q, h] - V) < TIGHT
            for y, answer in enumerate(answers):
                U = nodes.mean[q, history, answer]
                assert abs(values.U[t][q, h, y] - U) < TIGHT
                assert abs(values.advantage_sample[t][q, h, y] - (U - V)) < TIGHT
                if t < case.toy.rounds - 1:
                    stop, resample = (nodes.mean[q, history, answer, d] - U for d in (STOP, RESAMPLE))
                    assert abs(values.advantage_stop[t][q, h, y] - stop) < TIGHT
                    assert abs(values.advantage_resample[t][q, h, y] - resample) < TIGHT


def test_values_of_any_payoff(result):
    """A payoff that depends on the whole trajectory, not only on its last answer."""
    case, out, brute = result
    payoff = dict(zip([w[:2] for w in brute], np.sin(out["traj"].old_logp).sum(-1), strict=True))
    nodes = oracle.conditional(brute, lambda w: payoff[w[:2]])
    for t in range(case.toy.rounds):
        for q, h, history in nodes_by_round(case, t):
            assert abs(out["drift"].V[t][q, h] - nodes.mean[q, history, ()]) < TIGHT


def test_visitation_is_the_mass_that_passes(result):
    case, out, brute = result
    visit, nodes = out["visitation"], oracle.conditional(brute)
    answers = oracle.answers_of(case.toy.vocabulary, case.toy.length)
    for t in range(case.toy.rounds):
        for q, h, history in nodes_by_round(case, t):
            assert abs(visit.history[t][q, h] - nodes.mass[q, history, ()]) < TIGHT
            for y, answer in enumerate(answers):
                assert abs(visit.answer[t][q, h, y] - nodes.mass[q, history, answer]) < TIGHT


def test_advantages_are_martingale_differences(result):
    """E[A | context] = 0 for both components; an advantage with a baseline off by 1% fails the same comparison."""
    case, out, _ = result
    values, tables = out["values"], out["tables"]
    worst_control = 0.0
    for t in range(case.toy.rounds):
        pi = np.exp(tables.log_sample[t])
        assert np.abs((pi * values.advantage_sample[t]).sum(-1)).max() < TIGHT
        wrong = values.U[t] - 1.01 * values.V[t][..., None]
        worst_control = max(worst_control, np.abs((pi * wrong).sum(-1)).max())
        if t < case.toy.rounds - 1:
            stop, resample = np.exp(tables.log_stop[t]), np.exp(tables.log_resample[t])
            drift = stop * values.advantage_stop[t] + resample * values.advantage_resample[t]
            assert np.abs(drift).max() < TIGHT
    assert worst_control > 1e6 * TIGHT


def naive_token_advantages(case: Case, brute: list[oracle.Trajectory]) -> np.ndarray:
    """One trajectory, one token at a time."""
    nodes, L = oracle.conditional(brute), case.toy.length
    rows = np.zeros((len(brute), case.toy.rounds, L + 1))
    for i, w in enumerate(brute):
        for t, answer in enumerate(w.answers):
            history = w.answers[:t]
            rows[i, t, :L] = nodes.mean[w.prompt, history, answer] - nodes.mean[w.prompt, history, ()]
            if t < case.toy.rounds - 1:
                d = STOP if t == len(w.answers) - 1 else RESAMPLE
                rows[i, t, L] = nodes.mean[w.prompt, history, answer, d] - nodes.mean[w.prompt, history, answer]
    return rows.reshape(len(brute), -1)


def test_token_advantages_match_a_naive_loop(result):
    case, out, brute = result
    np.testing.assert_allclose(out["token_advantages"], naive_token_advantages(case, brute), rtol=0, atol=TIGHT)


def test_expected_return_and_its_gradient(result):
    case, out, brute = result
    assert abs(out["J"] - oracle.expected_return(brute)) < TIGHT
    measured = layout(out["gradient"])
    from_values = oracle.return_gradient(case.toy, brute)
    from_scores = oracle.score_gradient(case.toy, brute, lambda w, i: w.reward)
    wrong = oracle.score_gradient(
        case.toy, brute, lambda w, i: w.reward * (1.01 if w.factors[i].component == "decision" else 1.0)
    )
    for name in ("sample", "decision"):
        np.testing.assert_allclose(measured[name], from_values[name], rtol=0, atol=TIGHT)
        np.testing.assert_allclose(measured[name], from_scores[name], rtol=0, atol=TIGHT)
    if case.toy.rounds > 1:
        assert np.abs(measured["decision"] - wrong["decision"]).max() > 1e6 * TIGHT


def test_return_variance_is_the_sum_of_squared_advantages(result):
    """Var(R) = Var_q[V_1] + sum_t E[(A^s)^2] + E[(A^d)^2], with Var(R) from the list of trajectories."""
    case, out, brute = result
    values, visit, tables = out["values"], out["visitation"], out["tables"]
    law, V1 = np.array(case.toy.prompt_law), values.V[0][:, 0]
    total = law @ (V1 - law @ V1) ** 2
    for t in range(case.toy.rounds):
        total += (visit.answer[t] * values.advantage_sample[t] ** 2).sum()
        if t < case.toy.rounds - 1:
            total += (visit.answer[t] * np.exp(tables.log_stop[t]) * values.advantage_stop[t] ** 2).sum()
            total += (visit.answer[t] * np.exp(tables.log_resample[t]) * values.advantage_resample[t] ** 2).sum()
    assert abs(total - oracle.variance(brute)) < TIGHT


def test_gradient_by_central_differences(x64):
    case = make_case(MIDDLE, cost=0.1, seed=3)
    traj = support(case.process)
    flat, unravel = ravel_pytree(case.params)

    def expected(x):
        return case.process.expected_return(case.process.tables(log_probs(case.policy, unravel(x), traj)))

    h = 1e-5
    gradient, up, down = jax.jit(
        lambda x: (jax.grad(expected)(x), *(jax.vmap(expected)(x[None] + s * h * jnp.eye(x.size)) for s in (1, -1)))
    )(flat)
    # Truncation is h^2/6 x |J'''| ~ 2e-11, cancellation eps/h ~ 2e-11.
    np.testing.assert_allclose((up - down) / (2 * h), gradient, rtol=0, atol=1e-9)
    assert np.abs(gradient).max() > 1e-3


def test_split_and_join_are_inverse(x64):
    case = make_case(Shape(3, 1, 3, 2, "full"))
    x = jnp.arange(case.process.num_trajectories, dtype=jnp.float64)
    blocks = case.process.split(x)
    assert [b.shape for b in blocks] == [(2, 1, 3), (2, 3, 3), (2, 9, 3)]
    np.testing.assert_array_equal(case.process.join(blocks), x)


def test_vmap_over_instances_and_a_single_trace(x64):
    shape = Shape(2, 2, 2, 2, "full")
    cases = [make_case(shape, cost=0.1 * i, seed=i) for i in range(3)]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def batched(law, table, cost, params):
        def one(law, table, cost, params):
            process = DecisionSamplingProcess.create(
                prompt_law=law, reward_table=table, vocabulary=2, length=2, rounds=2, cost=cost, history="full"
            )
            policy = SaturatedPolicy.for_process(process)
            traj = process.enumerate_trajectories(policy, params)
            J = process.expected_return(process.tables(log_probs(policy, params, traj)))
            return J, traj.weight.sum(), jnp.sum(traj.weight * traj.reward)

        return jax.vmap(one)(law, table, cost, params)

    def stack(*xs):
        return jnp.stack([jnp.asarray(x) for x in xs])

    inputs = [(c.process.prompt_law, c.process.reward_table, c.process.cost, c.params) for c in cases]
    batch = jax.tree.map(stack, *inputs)
    J, mass, average = batched(*batch)
    again, _, _ = batched(*jax.tree.map(lambda x: x + 0, batch))
    expected = [oracle.expected_return(oracle.enumerate_toy(c.toy)) for c in cases]
    for got in (J, average, again):
        np.testing.assert_allclose(got, expected, rtol=0, atol=TIGHT)
    np.testing.assert_allclose(mass, 1.0, rtol=0, atol=TIGHT)


def test_too_large_a_process_is_refused_before_memory_is_used(x64):
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.zeros((1, 5**6)), vocabulary=5, length=6, rounds=4
    )
    number = sum((5**6) ** t for t in range(1, 5))
    assert process.num_trajectories == number
    # The policy is never consulted: its tables would be as large as the process.
    policy = SaturatedPolicy.for_process(process)
    calls = (process.support, functools.partial(process.enumerate_trajectories, policy, None))
    for call in calls:
        tracemalloc.start()
        start = time.perf_counter()
        with pytest.raises(ProcessTooLargeError) as error:
            call()
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert f"{number:,}" in str(error.value)
        assert "1,000,000" in str(error.value)
        assert peak < 1e6
        assert seconds < 1
    assert isinstance(error.value, InputError)


def test_limit_counts_trajectories_exactly(x64):
    process = make_case(SMALL).process  # 2 + 4 trajectories
    assert process.support(limit=6).tokens.shape[0] == 6
    with pytest.raises(ProcessTooLargeError, match=r"received '6'.*at most 5"):
        process.support(limit=5)


GOOD = {"prompt_law": [0.5, 0.5], "reward_table": [[0.0, 1.0], [1.0, 0.5]], "vocabulary": 2, "length": 1, "rounds": 2}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("vocabulary", {"vocabulary": 1}),
        ("length", {"length": 0}),
        ("rounds", {"rounds": 0}),
        ("history", {"history": "some"}),
        ("prompt_law", {"prompt_law": [0.5, 0.6]}),
        ("prompt_law", {"prompt_law": [-0.5, 1.5]}),
        ("prompt_law", {"prompt_law": [float("nan"), 1.0]}),
        ("prompt_law.shape", {"prompt_law": [[0.5, 0.5]], "reward_table": [[[0.0, 1.0], [1.0, 0.5]]]}),
        ("reward_table.shape", {"reward_table": [[0.0, 1.0, 0.5], [1.0, 0.5, 0.0]]}),
        ("reward_table.shape", {"length": 2}),
        ("reward_table", {"reward_table": [[0.0, 1.1], [1.0, 0.5]]}),
        ("reward_table", {"reward_table": [[0.0, float("nan")], [1.0, 0.5]]}),
        ("cost", {"cost": -0.1}),
        ("cost", {"cost": float("nan")}),
        ("cost", {"cost": float("inf")}),
    ],
)
def test_bad_input_names_the_field_the_value_and_what_is_allowed(x64, field, change):
    arrays: dict[str, Any] = {k: jnp.asarray(v) if isinstance(v, list) else v for k, v in {**GOOD, **change}.items()}
    with pytest.raises(InputError) as error:
        DecisionSamplingProcess.create(**arrays)
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: received ")
    assert "allowed: " in str(error.value)


def test_whole_numbers_are_accepted_as_probabilities_and_rewards(x64):
    """A binary verifier written with integers must not round the cost down to 0."""
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.asarray([1]), reward_table=jnp.asarray([[0, 1]]), vocabulary=2, length=1, rounds=2, cost=0.3
    )
    assert float(process.cost) == 0.3
    np.testing.assert_allclose(process.support().reward, [0, 1, -0.3, 0.7, -0.3, 0.7], atol=TIGHT)


def test_the_oracle_itself_on_a_case_done_by_hand():
    """p = 3/4 right, STOP with probability 1/2 if right and 1/4 if wrong, T = 2: J = 3/8 + 9/16 (3/4 - c)."""
    toy = oracle.Toy(
        prompt_law=(1.0,),
        reward={(0, (0,)): 0.0, (0, (1,)): 1.0},
        cost=0.1,
        vocabulary=2,
        length=1,
        rounds=2,
        history="none",
        sample={(0, (), ()): np.array([0.25, 0.75])},
        decision={(0, (), (0,)): np.array([0.25, 0.75]), (0, (), (1,)): np.array([0.5, 0.5])},
    )
    brute = oracle.enumerate_toy(toy)
    assert len(brute) == 6
    assert oracle.expected_return(brute) == pytest.approx(3 / 8 + 9 / 16 * (3 / 4 - 0.1), abs=1e-15)
    nodes = oracle.conditional(brute)
    assert nodes.mean[0, (), (1,), RESAMPLE] == pytest.approx(0.75 - 0.1, abs=1e-15)
    assert nodes.mass[0, ((1,),), ()] == pytest.approx(3 / 8, abs=1e-15)

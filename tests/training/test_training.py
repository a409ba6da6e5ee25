"""Training: sources of trajectories, the compiled step, streams of keys."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsjax.training
from dsjax.errors import InputError
from dsjax.io import write_atomically
from dsjax.objectives import resolve
from dsjax.policies import FunctionPolicy, Policy, PositionwisePolicy, TransformerPolicy, log_probs, sample
from dsjax.study.settings import Settings
from dsjax.study.trainings import jobs
from dsjax.tasks import Addition
from dsjax.training import sources
from dsjax.training.arms import ARMS, Arm, arm_of
from dsjax.training.config import TrainConfig
from dsjax.training.sources import SOURCES, Setting, Source
from dsjax.training.start import read_params
from dsjax.training.step import TrainState, adam, make_gradient_measure, make_train_steps
from dsjax.trajectories import RESAMPLE, STOP, Trajectories

TASK = Addition(digits=1)
L, T, PROMPTS, GROUP = TASK.length, 2, 3, 4
SETTING = Setting(TASK, rounds=T, prompts=PROMPTS, group=GROUP, cost=0.125)
POLICY = TransformerPolicy.for_task(TASK, T, layers=1, width=8, heads=2, mlp_ratio=1, separate_trunks=True)


def some_params(seed: int):
    shapes = jax.eval_shape(POLICY.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


PARAMS, BASE = some_params(0), some_params(1)


ANY_TASK = {name: source for name, source in SOURCES.items() if name != "chains-and-guesses"}  # that one needs steps


@functools.partial(jax.jit, static_argnames=("setting", "name"))
def batch_of(setting: Setting, name: str, *arrays) -> Trajectories:
    params, base, problems, key = arrays
    return SOURCES[name](setting, POLICY, params, base, problems, key)


def drawn(setting: Setting, name: str, seed: int = 0, params=PARAMS, base=BASE) -> tuple[Trajectories, jax.Array]:
    problems = TASK.training_problems(jax.random.key(5), setting.prompts)
    return batch_of(setting, name, params, base, problems, jax.random.key(seed)), problems.answer


DEMONSTRATED = ("success", "synthetic", "synthetic-half", "base-answers", "base-answers-once", "own-answers")


@pytest.fixture(scope="module")
def batches():
    return {name: drawn(SETTING, name) for name in ANY_TASK}


@pytest.mark.parametrize("name", ANY_TASK)
def test_a_source_yields_valid_trajectories(batches, name):
    traj, gold = batches[name]
    traj.validate()
    size = 1 if name == "success" else GROUP
    np.testing.assert_array_equal(traj.group, np.repeat(np.arange(PROMPTS), size))
    assert traj.num_groups == PROMPTS
    assert not traj.exact
    np.testing.assert_allclose(traj.weight, 1 / (PROMPTS * size), rtol=1e-6)
    tokens = np.asarray(traj.blocks(traj.tokens, L))
    sample, decision = (np.asarray(traj.blocks(m, L)) for m in (traj.sample_mask, traj.decision_mask))
    assert not sample[..., L].any()
    assert not decision[..., :L].any()
    assert not decision[:, T - 1 :].any()  # the last decision is forced
    right = (tokens[..., :L] == np.repeat(np.asarray(gold), size, axis=0)[:, None]).all(-1)
    went_on = (tokens[:, 0, L] == RESAMPLE) & decision[:, 0, L]
    kept = np.where(went_on, right[:, -1], right[:, 0])
    if name not in ("on-policy-shuffled", "on-policy-coin"):
        np.testing.assert_allclose(traj.reward, kept - 0.125 * went_on, rtol=1e-6)
    assert decision[:, 0, L].all()
    if name in DEMONSTRATED:
        assert kept.all()
        np.testing.assert_array_equal(went_on, ~right[:, 0])  # STOP on right answers, RESAMPLE on wrong ones
        np.testing.assert_array_equal(sample[:, 0, :L], np.repeat(right[:, :1], L, axis=1))  # errors are not copied
    if name == "success":
        assert tokens.shape[1] == 1
    else:
        np.testing.assert_array_equal(sample[:, 1, :L], np.repeat(went_on[:, None], L, axis=1))
    if name == "synthetic":
        assert went_on.all()
        np.testing.assert_array_equal((tokens[:, 0, :L] != tokens[:, 1, :L]).sum(-1), 1)


def test_shuffled_rewards_are_those_of_the_batch_in_another_order(batches):
    shuffled, straight = (batches[name][0] for name in ("on-policy-shuffled", "on-policy"))
    np.testing.assert_array_equal(np.sort(shuffled.reward), np.sort(straight.reward))
    assert (np.asarray(shuffled.reward) != np.asarray(straight.reward)).any()
    chex.assert_trees_all_equal(shuffled.replace(reward=straight.reward), straight)


def test_coins_are_fair_and_nothing_else_changes(batches):
    """Of 1024 fair tosses: within 4 standard deviations, 64, of one half."""
    tossed, straight = (batches[name][0] for name in ("on-policy-coin", "on-policy"))
    chex.assert_trees_all_equal(tossed.replace(reward=straight.reward), straight)
    many = np.asarray(drawn(SETTING._replace(prompts=256), "on-policy-coin")[0].reward)
    assert {*many.tolist()} == {-1.0, 1.0}
    assert 448 <= (many == 1).sum() <= 576


def test_answers_collected_once_are_those_of_the_problem_whatever_the_update(batches):
    once, again = batches["base-answers-once"][0], drawn(SETTING, "base-answers-once", seed=1)[0]
    chex.assert_trees_all_equal(once, again)
    fresh = [np.asarray(drawn(SETTING, "base-answers", seed=seed)[0].tokens) for seed in (0, 1)]
    assert (fresh[0] != fresh[1]).any()
    first = np.asarray(once.tokens)[:, :L].reshape(PROMPTS, GROUP, L)
    assert (first[:, :1] != first).any()  # the answers of a group are not copies


def test_value_labels_differ_from_those_of_correctness(batches):
    """Many answers, since V and q are of bins: some wrong answers are kept, or right ones are not."""
    traj, gold = drawn(SETTING._replace(prompts=64), "value-labels")
    tokens = np.asarray(traj.blocks(traj.tokens, L))
    right = (tokens[:, 0, :L] == np.repeat(np.asarray(gold), GROUP, axis=0)).all(-1)
    assert ((tokens[:, 0, L] == STOP) != right).any()


def test_a_frozen_sampler_is_left_as_it_is_by_a_shared_trunk():
    policy = TransformerPolicy.for_task(TASK, T, layers=1, width=8, heads=2, mlp_ratio=1)
    params = policy.init(jax.random.key(0))
    optimizer = adam(1e-2, 1.0)
    options = {"steps": 2, "component": "decision", "frozen": True}
    steps = make_train_steps(SETTING, policy, SOURCES["synthetic"], resolve("sft"), optimizer, **options)
    keys = jax.random.key(0), jax.random.key(1)
    state, _ = steps(TrainState.create(jax.tree.map(jnp.copy, params), optimizer, *keys), params)
    same = {k: all(map(np.array_equal, *map(jax.tree.leaves, (state.params[k], params[k])))) for k in params}
    assert same == {"trunks_shared": True, "sample_head": True, "decide_head": False}
    with pytest.raises(InputError, match="component: received 'both'"):
        Arm("on-policy", "rloo", "reward", frozen=True)
    with pytest.raises(InputError, match="its decider alone reads"):
        Policy.decider_parts(POLICY, PARAMS)  # of a policy that does not say


def test_half_of_the_rows_begin_right():
    """Of 256 fair draws: within 4 standard deviations, 32, of one half; with `synthetic` none."""
    setting = SETTING._replace(prompts=256, group=1)
    ended = {name: np.asarray(drawn(setting, name)[0].reward) == 1.0 for name in ("synthetic", "synthetic-half")}
    assert not ended["synthetic"].any()
    assert 96 <= ended["synthetic-half"].sum() <= 160


def test_a_part_of_the_problems_is_of_the_split_that_the_task_mixes_in():
    task = Addition(digits=2, width=3)
    keys = (jax.random.key(0), jax.random.key(1))
    problems = Setting(task, T, prompts=20, group=1, mixed_share=0.25).problems(*keys)
    operands = np.stack([problems.prompt[:, :3], problems.prompt[:, 4:7]], axis=1)
    assert (operands[:15, :, 0] == 0).all()
    assert (operands[15:, :, 0] > 0).all()
    alone = Setting(task, T, prompts=20, group=1).problems(*keys)
    chex.assert_trees_all_equal(alone, task.training_problems(jax.random.key(0), 20))


def test_a_finite_set_of_problems_is_drawn_once_and_has_none_that_are_held_out():
    task = Addition(digits=2, width=3)
    setting = Setting(task, T, prompts=64, group=1, mixed_share=0.25, problem_set=8)

    def rows(key: int, set_key: int) -> set[tuple[int, ...]]:
        problems = setting.problems(jax.random.key(key), jax.random.key(set_key))
        return {tuple(row) for row in np.asarray(problems.prompt).tolist()}

    seen = rows(0, 9) | rows(1, 9) | rows(2, 9)
    assert 8 < len(seen) <= 16  # of each split at most 8
    assert not seen & rows(0, 10)
    held_out = {tuple(row) for split in task.splits for row in task.evaluation_problems(split, 50).prompt.tolist()}
    assert not seen & held_out


def test_the_decision_weight_grows_with_the_length():
    weights = [
        ARMS[name].options_at(9).get("decision_weight", 1.0) for name in ("sft-self", "sft-self-sqrt-l", "sft-self-l")
    ]
    assert weights == [1.0, 3.0, 9.0]
    assert Arm("success", "sft", "sft", {"decision_weight": 2.0}, length_power=1).options_at(4) == {
        "decision_weight": 8.0
    }
    with pytest.raises(InputError, match="length_power"):
        Arm("on-policy", "rloo", "reward", length_power=1.0)


def test_a_right_first_answer_is_kept_and_copied():
    """Answers of a sampler whose law is nearly uniform on one of two digits: some are right, and those end the row."""
    head = jnp.where(jnp.arange(10) < 2, 0.0, -50.0)
    params = {**PARAMS, "sample_head": {"kernel": jnp.zeros_like(PARAMS["sample_head"]["kernel"]), "bias": head}}
    setting = SETTING._replace(prompts=32)
    traj, gold = drawn(setting, "own-answers", params=params)
    tokens, sample = (np.asarray(traj.blocks(x, L)) for x in (traj.tokens, traj.sample_mask))
    right = (tokens[:, 0, :L] == np.repeat(np.asarray(gold), GROUP, axis=0)).all(-1)
    assert 0 < right.sum() < len(right)
    np.testing.assert_array_equal(tokens[:, 0, L], np.where(right, STOP, RESAMPLE))
    np.testing.assert_array_equal(sample[:, 0, :L].all(-1), right)
    np.testing.assert_array_equal(sample[:, 1, :L].any(-1), ~right)
    np.testing.assert_allclose(traj.reward, np.where(right, 1.0, 0.875))


def test_imitated_errors_are_in_the_sample_mask(batches):
    for name in ("synthetic", "own-answers"):
        copied = drawn(SETTING._replace(imitate_errors=True), name)[0]
        shown = batches[name][0]
        np.testing.assert_array_equal(copied.tokens, shown.tokens)
        np.testing.assert_array_equal(copied.decision_mask, shown.decision_mask)
        assert np.asarray(copied.blocks(copied.sample_mask, L))[:, 0, :L].all()
        assert (np.asarray(copied.sample_mask) >= np.asarray(shown.sample_mask)).all()


def test_whose_answers_a_source_shows(batches):
    def answers(name, **parameters):
        return np.asarray(drawn(SETTING, name, **parameters)[0].tokens)

    np.testing.assert_array_equal(answers("base-answers", params=BASE), answers("base-answers"))
    np.testing.assert_array_equal(answers("base-answers"), answers("own-answers", params=BASE))
    assert (answers("own-answers") != answers("base-answers")).any()
    np.testing.assert_array_equal(answers("base-episodes"), answers("on-policy", params=BASE))


def test_on_policy_records_both_log_probs(batches):
    traj = batches["on-policy"][0]
    of = jax.jit(lambda params: log_probs(POLICY, params, traj))
    # One layer, sums of at most 10 terms in two orders: some 100 eps of float32.
    np.testing.assert_allclose(traj.old_logp, of(PARAMS), rtol=0, atol=2e-5)
    np.testing.assert_allclose(traj.ref_logp, of(BASE), rtol=0, atol=2e-5)
    assert np.abs(np.asarray(traj.old_logp) - np.asarray(traj.ref_logp)).max() > 0.01


def test_gradients_of_the_two_components():
    """Of finite numbers; a head has no gradient from the other component's loss."""
    measure = make_gradient_measure(SETTING, POLICY, SOURCES["on-policy"], resolve("rloo"))
    row = {name: float(value) for name, value in measure(fresh_state(adam(1e-2, 1.0)), BASE).items()}
    assert all(np.isfinite(value) for value in row.values())
    assert 0 <= row["share"] <= 1
    assert row["norm_sample_sample_head"] > 0
    assert row["norm_decision_decide_head"] > 0
    assert row["norm_sample_decide_head"] == row["norm_decision_sample_head"] == 0


@pytest.mark.parametrize(("component", "moves"), [("decision", "decide"), ("sample", "sample")])
def test_a_single_component_moves_only_its_own_trunk(component, moves):
    steps = make_train_steps(
        SETTING, POLICY, SOURCES["synthetic"], resolve("sft"), adam(1e-2, 1.0), steps=2, component=component
    )
    state, metrics = steps(fresh_state(adam(1e-2, 1.0)), BASE)
    assert np.isfinite(metrics["loss"]).all()
    for name, sub in state.params.items():
        same = all(
            (np.asarray(x) == np.asarray(y)).all()
            for x, y in zip(jax.tree.leaves(sub), jax.tree.leaves(PARAMS[name]), strict=True)
        )
        assert same == (name not in (f"trunks_{moves}", f"{moves}_head")), name


def fresh_state(optimizer, problem_seed: int = 0, draw_seed: int = 1) -> TrainState:
    keys = jax.random.key(problem_seed), jax.random.key(draw_seed)
    return TrainState.create(jax.tree.map(jnp.copy, PARAMS), optimizer, *keys)


def test_one_compilation_and_chunks_do_not_matter():
    optimizer = adam(1e-2, 1.0)
    traced, sft = [], resolve("sft")

    def objective(*args):
        traced.append(args)
        return sft(*args)

    arguments = (SETTING, POLICY, SOURCES["synthetic"], objective, optimizer)
    two, one = make_train_steps(*arguments, steps=2), make_train_steps(*arguments, steps=1)
    a, b = fresh_state(optimizer), fresh_state(optimizer)
    losses, traces = [], []
    for _ in range(2):
        a, _ = two(a, BASE)
        traces.append(len(traced))
    for _ in range(4):
        b, metrics = one(b, BASE)
        losses.append(float(metrics["loss"][0]))
        traces.append(len(traced))
    assert 0 < traces[0] == traces[1] < traces[2] == traces[5]
    assert int(a.step) == int(b.step) == 4
    # Two programs may round differently: Adam's first steps are near-signs of the gradient, so eps can be amplified.
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4)
    assert losses[-1] < losses[0]


def test_arms_see_the_same_problems_whatever_they_draw():
    def problems_of(name: str, draw_seed: int) -> np.ndarray:
        seen = []

        def spy(setting, policy, params, base_params, problems, key):
            jax.debug.callback(lambda p: seen.append(np.asarray(p)), problems.prompt, ordered=True)
            return SOURCES[name](setting, policy, params, base_params, problems, key)

        optimizer = optax.sgd(0.1)
        steps = make_train_steps(SETTING, POLICY, spy, resolve("sft"), optimizer, steps=3)
        steps(fresh_state(optimizer, draw_seed=draw_seed), BASE)
        jax.effects_barrier()
        return np.stack(seen)

    one, other = problems_of("success", 1), problems_of("synthetic", 2)
    np.testing.assert_array_equal(one, other)
    assert (one[0] != one[1]).any()


def test_answers_sampled_are_those_that_a_source_draws(monkeypatch):
    """Counted by running each source: a row or an episode of it has so many answers that a policy drew."""
    for name, source in ANY_TASK.items():
        drawn_answers = []

        def counted(*arguments, drawn_answers=drawn_answers, **options):
            rounds = sample(*arguments, **options)
            drawn_answers.append(rounds.answers.shape[0] * rounds.answers.shape[1])
            return rounds

        monkeypatch.setattr(sources, "sample", counted)
        problems = TASK.training_problems(jax.random.key(5), PROMPTS)
        jax.eval_shape(lambda s=source, p=problems: s(SETTING, POLICY, PARAMS, BASE, p, jax.random.key(0)))
        rows = PROMPTS * SETTING.group if name == "base-answers-once" else 1  # a key a row: its rows are under vmap
        assert source.answers(SETTING) * PROMPTS == sum(drawn_answers) * rows, name


def test_a_new_source_counts_what_it_samples(monkeypatch):
    """By its record, whatever it is called."""
    monkeypatch.setitem(SOURCES, "replay", Source(SOURCES["on-policy"].draw, lambda setting: 5 * setting.group))
    monkeypatch.setitem(ARMS, "replayed", Arm("replay", "rloo", "reward"))
    config = TrainConfig(arm="replayed", digits=2, updates=100, prompts=7, group=3)
    assert config.tokens_sampled == 100 * 7 * (5 * 3) * 3


def mean_reward(logp, traj, scale=1.0):
    """REINFORCE without a baseline, written by hand."""
    weight = scale * traj.weight[:, None] * traj.reward[:, None]
    return -jnp.sum(jnp.where(traj.mask, logp, 0.0) * weight), jnp.sum(traj.weight)


def one_number(logp, traj):
    return -jnp.sum(jnp.where(traj.mask, logp, 0.0))


def a_row_each(logp, traj):
    return -jnp.sum(jnp.where(traj.mask, logp, 0.0), axis=1), jnp.sum(traj.weight)


def raises(logp_BxS, traj):
    """A mistake of the user's."""
    return {}["nothing"]


def three(logp, traj):
    return jnp.sum(logp), jnp.sum(traj.weight), 1.0


def whole_count(logp, traj):
    return -jnp.sum(jnp.where(traj.mask, logp, 0.0)), logp.shape[0]


LATE = Arm("on-policy", f"{__name__}:mean_reward", "reward", {"scale": 2.0}, component="decision")


def updated(name: str):
    """Parameters after two updates of an arm of that name, as training makes them."""
    arm, optimizer = arm_of(name), optax.sgd(0.1)
    objective = resolve(arm.objective, arm.options)
    steps = make_train_steps(SETTING, POLICY, SOURCES[arm.source], objective, optimizer, 2, component=arm.component)
    return steps(fresh_state(optimizer), BASE)[0].params


def test_an_own_objective_trains_as_the_named_one_that_it_is():
    assert arm_of(f"{__name__}:mean_reward") == Arm("on-policy", f"{__name__}:mean_reward", "reward")
    # One sum in two orders.
    chex.assert_trees_all_close(updated(f"{__name__}:mean_reward"), updated("reinforce-plain"), rtol=0, atol=1e-5)
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(updated(f"{__name__}:whole_count"))])).all()


def test_an_own_arm_is_taken_as_it_is():
    assert arm_of(f"{__name__}:LATE") is LATE
    assert TrainConfig(arm=f"{__name__}:LATE").objective_of is LATE
    params = updated(f"{__name__}:LATE")
    jax.tree.map(np.testing.assert_array_equal, params["trunks_sample"], PARAMS["trunks_sample"])
    assert any((np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (params, PARAMS)), strict=True))


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("one_number", "1 value of shape ()"),
        ("a_row_each", "2 values of shapes (12,), ()"),
        ("three", "3 values of shapes (), (), ()"),
    ],
)
def test_an_own_objective_that_returns_something_else_is_named(name, received):
    with pytest.raises(InputError) as error:
        updated(f"{__name__}:{name}")
    assert (error.value.field, error.value.received) == (f"what objective {__name__}:{name} returns", received)
    assert error.value.allowed.startswith("two numbers, (sum, count)")


def test_an_own_objective_that_does_not_run_is_refused_before_any_work():
    """By the settings of a run and of a study alike, which make a configuration of each arm."""
    for name, words in (("one_number", "1 value of shape ()"), ("raises", "KeyError: 'nothing' (")):
        with pytest.raises(InputError) as error:
            TrainConfig(arm=f"{__name__}:{name}")
        assert f"objective {__name__}:{name}" in error.value.field
        assert words in str(error.value.received)
        with pytest.raises(InputError, match=r"settings of .*two numbers|settings of .*a loss of"):
            Settings(arms=("rloo", f"{__name__}:{name}"))


@pytest.mark.parametrize(
    ("name", "field", "allowed"),
    [
        ("nonsense", "arm", ", ".join(["base", *ARMS, "module:name"])),
        (f"{__name__}:nowhere", "arm", "can be imported"),
        (f"{__name__}:T", "arm", "an Arm or of an objective"),
        ("nowhere:f", "arm", "can be imported"),
    ],
)
def test_a_name_that_is_no_arm(name, field, allowed):
    with pytest.raises(InputError) as error:
        TrainConfig(arm=name)
    assert (error.value.field, error.value.received) == (field, name)
    assert allowed in error.value.allowed


def test_own_arms_in_a_study():
    """A job is a folder, whatever the arm is called."""
    own = f"{__name__}:LATE"
    found = {job.name: job for job in jobs({"arms": ["rloo", own], "histories": ["none"], "seeds": 1})}
    job = found[f"none/seed-0/arms/{__name__}.LATE"]
    assert job.options["config"]["arm"] == own
    assert job.name in found["none/seed-0/evaluation"].needs


def linear_policy(task, rounds):
    """An own network: every law is a linear function of the prompt."""
    L, V = task.length, task.vocabulary

    def apply(params, prompt, answers):
        B, K, _ = answers.shape
        sample, decision = jnp.split(prompt.astype(jnp.float32) @ params["weights"], [L * V], axis=1)
        each_round = jnp.ones((1, K, 1, 1))
        return sample.reshape(B, 1, L, V) * each_round, decision.reshape(B, 1, 2) * each_round[..., 0]

    def initial(key):
        return {"weights": 0.1 * jax.random.normal(key, (task.prompt_length, L * V + 2))}

    return FunctionPolicy(apply, L, initial)


def nothing(task, rounds):
    return None


def of_a_task_alone(task):
    return short_policy(task, 2)


def short_policy(task, rounds):
    return PositionwisePolicy(1, task.vocabulary, task.length + 1)


def test_an_own_network_trains_and_is_evaluated(tmp_path):
    """Through the whole run: checkpoints, measurements, the result; and one program for all uses of the policy."""
    own = f"{__name__}:linear_policy"
    sizes: Any = {"digits": 1, "rounds": 2, "updates": 2, "chunk": 1, "evaluate_every": 2, "prompts": 2, "group": 2}
    config = TrainConfig(network=own, arm="rloo", evaluation_problems=3, **sizes)
    assert config.policy is config.policy
    result = dsjax.training.train(config, tmp_path)
    assert result["updates"] == 2
    params = read_params(TrainConfig(network=own, init_from=str(tmp_path), init_checkpoint="last", **sizes))
    again = dsjax.training.evaluate(config.policy, params, config.task_of, rounds=2, problems=3, resamples=0)
    assert set(again) == set(result["evaluations"]["last"]["in"])
    for name in ("p", "b", "accuracy"):
        assert 0 <= again[name].value <= 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"network": "rnn"}, "network"),
        ({"network": f"{__name__}:nothing"}, "a function of .task, rounds. that returns a Policy, not NoneType"),
        ({"network": f"{__name__}:LATE"}, "names a callable"),
        ({"network": f"{__name__}:of_a_task_alone"}, r"a function of .task, rounds. .too many positional"),
        ({"network": f"{__name__}:short_policy"}, "length of the policy"),
        ({"network": f"{__name__}:linear_policy", "history": "full"}, "history of the policy"),
        ({"network": f"{__name__}:linear_policy", "arm": "ppo"}, "critic of the policy"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(fields, field):
    with pytest.raises(InputError, match=field):
        TrainConfig(**fields)


def test_writing_is_atomic(tmp_path, monkeypatch):
    file = tmp_path / "data"
    write_atomically(file, b"old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(file, b"new, and longer")
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]

"""The critic: its loss and gradient, the exact values that regression reaches, and what training gives it to learn."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsjax.attribution import pull_back
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.objectives.critic import exact_values, value_loss
from dsjax.policies import log_probs
from dsjax.policies.transformer import TransformerPolicy
from dsjax.process import DecisionSamplingProcess, Values
from dsjax.tasks import Addition
from dsjax.training.arms import ARMS, Arm
from dsjax.training.critic import critic_loss, token_values, with_critic
from dsjax.training.sources import SOURCES, Setting
from dsjax.training.step import TrainState, make_train_steps
from dsjax.trajectories import Trajectories
from tests.cases import TIGHT, Shape, enumerated, make_case

TASK = Addition(digits=1)
SETTING = Setting(TASK, rounds=3, prompts=3, group=4, cost=0.125)
PLAIN = TransformerPolicy.for_task(TASK, 3, layers=1, width=8, heads=2, mlp_ratio=1)
CRITIC, DETACHED = PLAIN.replace(critic=True), PLAIN.replace(critic=True, critic_detached=True)


def some_params(policy: TransformerPolicy, seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * x.shape[0] ** -0.5, dtype), shapes)


PARAMS, BASE = some_params(CRITIC, 0), some_params(PLAIN, 1)


@functools.partial(jax.jit, static_argnames=("policy",))
def batch_of(policy: TransformerPolicy, *arrays) -> Trajectories:
    params, base, problems, key = arrays
    return SOURCES["on-policy"](SETTING, policy, params, base, problems, key)


def drawn(policy: TransformerPolicy, params=PARAMS, base=BASE, seed: int = 0) -> Trajectories:
    problems = TASK.training_problems(jax.random.key(5), SETTING.prompts)
    return batch_of(policy, params, base, problems, jax.random.key(seed))


def mean_loss(policy, params, traj, **options) -> jax.Array:
    return jnp.divide(*critic_loss(policy, params, traj, **options))


@pytest.fixture
def flax64(x64):
    """Float64, with the one promotion that Flax makes itself."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def size(tree: Any) -> float:
    return float(sum(np.abs(x).sum() for x in jax.tree.leaves(jax.device_get(tree))))


@pytest.mark.parametrize("policy", [CRITIC, DETACHED], ids=["shared", "detached"])
def test_what_the_loss_trains(policy):
    """The value head always, the trunk unless detached, the heads of the two laws never."""
    traj = drawn(CRITIC)
    gradient = jax.jit(jax.grad(lambda p: mean_loss(policy, p, traj)))(PARAMS)
    moved = {name for name, sub in gradient.items() if size(sub) > 0}
    assert moved == ({"value_head"} if policy.critic_detached else {"value_head", "trunks_shared"})


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_gradient_by_central_differences(flax64, separate):
    """Along random directions, with options of the loss; clipped and unclipped values are both there."""
    policy = CRITIC.replace(separate_trunks=separate)
    params = some_params(policy, 0, jnp.float64)
    traj = drawn(CRITIC)
    data = traj.replace(values=jnp.asarray(np.random.default_rng(3).normal(size=traj.tokens.shape)))
    data = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, data)
    both = jax.jit(jax.value_and_grad(lambda p: mean_loss(policy, p, data, discount=0.9, gae_lambda=0.8, clip=3.0)))
    gradient = both(params)[1]
    assert set(gradient) >= {"value_head"}
    rng, h = np.random.default_rng(1), 1e-5
    for _ in range(3):
        direction = jax.tree.map(lambda x: rng.uniform(-1, 1, x.shape), params)
        ahead, behind = (
            float(both(jax.tree.map(lambda x, d: np.asarray(x) + sign * h * d, params, direction))[0])  # noqa: B023
            for sign in (1, -1)
        )
        expected = sum(float(np.sum(g * d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        # Truncation h^2/6 |f^(3)| = 2e-11 |f^(3)|: below 1e-8 for a third derivative below 600, of a loss of order 1.
        # Cancellation eps |f| / h is below 1e-10.
        assert (ahead - behind) / (2 * h) == pytest.approx(expected, rel=0, abs=1e-8)


def test_only_drawn_tokens_have_a_value(flax64):
    """Of the right round and factor, and 0 elsewhere, whatever the network says there."""
    traj = drawn(CRITIC)
    table = jax.jit(CRITIC.values)(PARAMS, traj.prompt, traj.answers(TASK.length))
    got = jax.jit(functools.partial(token_values, CRITIC))(PARAMS, traj)
    assert (np.asarray(table) != 0).all()
    for b, s in np.ndindex(*got.shape):
        k, j = divmod(s, TASK.length + 1)
        assert float(got[b, s]) == (float(table[b, k, j]) if traj.mask[b, s] else 0.0)


def spread(process: DecisionSamplingProcess, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """(V, U), each f[B, T]: the process' values before the answer and before the decision of each round."""
    Q, A, T = process.num_prompts, process.num_answers, process.rounds
    before_answer, before_decision = [], []
    for tau in range(T):  # block tau of the enumeration is [Q, A^(tau + 1)]: a state of round t is a run of rows
        V, U = np.zeros((T, Q, A ** (tau + 1))), np.zeros((T, Q, A ** (tau + 1)))
        for t in range(tau + 1):
            V[t] = np.repeat(np.asarray(values.V[t]), A ** (tau + 1 - t), axis=1)
            U[t] = np.repeat(np.asarray(values.U[t]).reshape(Q, -1), A ** (tau - t), axis=1)
        before_answer.append(V.reshape(T, -1).T)
        before_decision.append(U.reshape(T, -1).T)
    return np.concatenate(before_answer), np.concatenate(before_decision)


@pytest.mark.parametrize("shape", [Shape(2, 2, 2, 1, "none"), Shape(2, 1, 2, 2, "full")], ids=["none", "full"])
def test_regression_reaches_the_exact_values(flax64, shape):
    """300 steps on the exact law; round and history matter, so a critic that ignores either cannot get there."""
    V, L, T, Q, history = shape
    case = make_case(shape, cost=0.1)
    law = enumerated(case.process, case.policy, case.params)
    exact = np.asarray(jax.jit(exact_values)(law))
    mask, answers = np.asarray(law.mask), (len(exact), T, L + 1)
    values = jax.jit(lambda process, logp: process.values(process.tables(logp)))(case.process, law.old_logp)
    before_answer, before_decision = spread(case.process, values)
    for slot, expected in ((0, before_answer), (L, before_decision)):
        drawn_here = mask.reshape(answers)[..., slot]
        np.testing.assert_allclose(
            exact.reshape(answers)[..., slot][drawn_here], expected[drawn_here], rtol=0, atol=TIGHT
        )

    policy = TransformerPolicy(Q, 1, V, L, T, layers=1, width=32, heads=2, mlp_ratio=2, history=history, critic=True)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 300))
    data = law.replace(values=jnp.zeros_like(law.old_logp))

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(lambda p: mean_loss(policy, p, data))(params), state)
            return (optax.apply_updates(params, updates), state), None

        (fitted, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=300)
        return [(token_values(policy, p, data), mean_loss(policy, p, data)) for p in (params, fitted)]

    weight = np.where(mask, np.asarray(law.weight)[:, None], 0.0)
    weight /= weight.sum()

    def distance(values: Any) -> float:
        return float(np.sqrt(np.sum(weight * (np.asarray(values) - exact) ** 2)))

    (start, loss_before), (fitted, loss_after) = fit(some_params(policy, 0, jnp.float64))
    spread_of_values = distance(np.sum(weight * exact))
    # The loss is quadratic: 2 % of the values' spread is 0.04 % of what there is to learn. Adam's steps leave less.
    assert distance(fitted) < 0.02 * spread_of_values
    assert distance(start) > spread_of_values
    # Pythagoras: what the loss has above its least value is half the mean squared distance. This ties the loss, with
    # returns as targets, to the conditional means.
    least = float(np.divide(*jax.jit(value_loss)(exact, data)))
    for values, loss in ((start, loss_before), (fitted, loss_after)):
        assert float(loss) - least == pytest.approx(0.5 * distance(values) ** 2, abs=TIGHT)
    # Controls: values of the neighbouring factor, and of the other round, are seen.
    assert distance(np.where(mask, np.roll(np.asarray(fitted), 1, axis=1), 0.0)) > 0.2 * spread_of_values
    swapped = np.asarray(fitted).reshape(answers)[:, ::-1].reshape(exact.shape)
    assert distance(np.where(mask, swapped, 0.0)) > 0.2 * spread_of_values


def test_on_policy_trajectories_carry_the_values_of_their_policy():
    """Of the parameters that drew them, as data; the base needs no critic. Nothing else changes."""
    traj, plain = drawn(CRITIC), drawn(PLAIN, {k: v for k, v in PARAMS.items() if k != "value_head"})
    assert plain.values is None
    jax.tree.map(np.testing.assert_array_equal, traj.replace(values=None), plain)
    assert traj.values is not None
    expected = jax.jit(functools.partial(token_values, CRITIC))(PARAMS, traj)
    # One layer, sums of at most 10 terms in two orders: some 100 eps of float32.
    np.testing.assert_allclose(traj.values, expected, rtol=0, atol=2e-5)
    traj.validate()

    def leak(params):
        problems = TASK.training_problems(jax.random.key(5), SETTING.prompts)
        traj = SOURCES["on-policy"](SETTING, CRITIC, params, BASE, problems, jax.random.key(0))
        return jnp.sum(jnp.asarray(traj.values))

    assert size(jax.jit(jax.grad(leak))(PARAMS)) == 0


@pytest.mark.parametrize("detached", [False, True])
def test_a_critic_for_a_trained_policy(detached):
    """A fresh value head; both laws, and their parameters, stay what they were."""
    policy, params = with_critic(PLAIN, BASE, jax.random.key(2), detached=detached)
    assert policy == (DETACHED if detached else CRITIC)
    jax.tree.map(np.testing.assert_array_equal, {k: v for k, v in params.items() if k != "value_head"}, BASE)
    assert params["value_head"]["kernel"].shape == (8, 3)
    traj = drawn(PLAIN, BASE)
    law = jax.jit(log_probs, static_argnums=0)
    np.testing.assert_array_equal(law(policy, params, traj), law(PLAIN, BASE, traj))
    again = with_critic(policy, params, jax.random.key(3), detached=detached)[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)  # a critic that is there is kept


def test_the_arm_learns_policy_and_values():
    """PPO's gradient and the critic's add up to one update; with a detached critic the policy's part stands alone."""
    arm = ARMS["ppo"]
    objective = resolve(arm.objective, arm.options)
    traj = drawn(CRITIC)

    @functools.partial(jax.jit, static_argnames=("policy",))
    def update(policy, params):
        _, (ascent,) = pull_back(policy, params, traj, objective, ("both",))
        loss, slope = jax.value_and_grad(lambda p: mean_loss(policy, p, traj))(params)
        whole = jax.tree.map(lambda a, v: -a + arm.value_weight * v, ascent, slope)
        return ascent, whole, loss, jax.tree.map(lambda p, g: p - 0.05 * g, params, whole)

    ascent, shared, loss, params = update(CRITIC, PARAMS)
    assert size(ascent["value_head"]) == 0
    assert min(size(sub) for name, sub in ascent.items() if name != "value_head") > 0
    assert size(shared["value_head"]) > 0
    assert float(update(CRITIC, params)[2]) < float(loss)
    alone, detached, _, _ = update(DETACHED, PARAMS)
    for name in ("trunks_shared", "sample_head", "decide_head"):
        jax.tree.map(lambda a, g: np.testing.assert_array_equal(g, -a), alone[name], detached[name])
    assert size(jax.tree.map(jnp.add, ascent["trunks_shared"], shared["trunks_shared"])) > 1e-3


def test_errors_name_what_is_missing():
    traj = drawn(PLAIN, BASE)
    with pytest.raises(InputError, match="critic: received False"):
        token_values(PLAIN, BASE, traj)
    with pytest.raises(InputError, match="values: received None"):
        critic_loss(CRITIC, PARAMS, traj)
    with pytest.raises(InputError, match="rounds: received 3"):
        token_values(CRITIC.replace(rounds=2), PARAMS, traj)
    with pytest.raises(InputError, match="critic_detached: received True"):
        PLAIN.replace(critic_detached=True).init(jax.random.key(0))
    for weight in (-1.0, float("inf")):
        with pytest.raises(InputError, match="value_weight"):
            Arm("on-policy", "ppo", "reward", value_weight=weight)
    with pytest.raises(InputError, match="source"):
        Arm("synthetic", "sft", "sft", value_weight=0.5)


def test_training_fits_the_critic_next_to_the_policy():
    """The value head moves with `value_weight`, and only with it; pi_d and pi_sample learn all the same."""
    arm, optimizer = ARMS["ppo"], optax.sgd(0.1)
    params = some_params(CRITIC, 0)

    def trained(value_weight: float):
        state = TrainState.create(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(1), jax.random.key(2))
        source, objective = SOURCES[arm.source], resolve(arm.objective)
        steps = make_train_steps(SETTING, CRITIC, source, objective, optimizer, 2, value_weight=value_weight)
        return steps(state, params)[0].params

    def moved(new, name: str) -> bool:
        pairs = zip(jax.tree.leaves(new[name]), jax.tree.leaves(params[name]), strict=True)
        return any(bool(jnp.any(a != b)) for a, b in pairs)

    with_values, without = trained(arm.value_weight), trained(0.0)
    assert [moved(with_values, n) for n in ("value_head", "decide_head")] == [True, True]
    assert [moved(without, n) for n in ("value_head", "decide_head")] == [False, True]

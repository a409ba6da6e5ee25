"""The transformer: cached decoding, what each output may depend on, component gradients, and the exact process."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.policies import History, Policy, Rounds, TransformerPolicy, log_probs, sample, to_trajectories
from dsjax.policies.products import product
from dsjax.trajectories import Trajectories
from tests.cases import MIDDLE, TIGHT, make_case

ROUNDS, LENGTH, BATCH = 3, 2, 6

# A log-prob is some 20 sums deep (2 layers), each with at most 64 terms of size about 1, added in another order by
# the other path. Worst-case rounding of one sum is 32 eps on average terms; 20 of them give about 600 eps.
F32_PATHS = 600 * float(np.finfo(np.float32).eps)
F64_PATHS = 600 * float(np.finfo(np.float64).eps)


def make_policy(history: History = "none", separate=False, **changes) -> TransformerPolicy:
    fields = dict(prompt_vocabulary=5, prompt_length=2, vocabulary=3, length=LENGTH, rounds=ROUNDS)
    sizes = dict(layers=2, width=8, heads=2, mlp_ratio=2)
    return TransformerPolicy(**{**fields, **sizes, **changes}, history=history, separate_trunks=separate)


def lively(policy: TransformerPolicy, dtype: Any = jnp.float32, seed: int = 0):
    """Parameters far from any start: every input matters by much more than rounding."""
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * (x.shape[0] ** -0.5), dtype), shapes)


@functools.partial(jax.jit, static_argnames=("policy",))
def log_dists(policy, params, prompt, answers):
    return policy.log_dists(params, prompt, answers)


@functools.partial(jax.jit, static_argnames=("policy",))
def token_log_probs(policy, params, traj):
    return log_probs(policy, params, traj)


class Cacheless(TransformerPolicy):
    """The same policy, decoding by full forward passes."""

    start, step = Policy.start, Policy.step


class Drawn(NamedTuple):
    policy: TransformerPolicy
    params: dict
    prompt: jax.Array
    rounds: Rounds
    traj: Trajectories


VARIANTS = [(h, s) for h in ("none", "full") for s in (False, True)]


@pytest.fixture
def flax64(x64):
    """Float64, with the one promotion that Flax makes itself: its norms ask for at least float32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda v: f"{v[0]}-{'separate' if v[1] else 'shared'}")
def drawn(request) -> Drawn:
    policy = make_policy(*request.param)
    params = lively(policy)
    prompt = jnp.asarray(np.random.default_rng(1).integers(0, 5, (BATCH, 2)), jnp.int32)
    rounds = sample(policy, params, prompt, jax.random.key(3), rounds=ROUNDS)
    score = jnp.asarray(np.random.default_rng(2).random((BATCH, ROUNDS)), jnp.float32)
    return Drawn(policy, params, prompt, rounds, jax.jit(to_trajectories)(prompt, rounds, score))


def test_cached_decoding_records_the_teacher_forced_log_probs(drawn):
    policy, params, prompt, rounds, traj = drawn
    log_s, log_d = log_dists(policy, params, prompt, rounds.answers)
    chosen = np.take_along_axis(np.asarray(log_s), np.asarray(rounds.answers)[..., None], -1)[..., 0]
    np.testing.assert_allclose(rounds.logp_answers, chosen, rtol=0, atol=F32_PATHS)
    np.testing.assert_allclose(rounds.log_decision, log_d, rtol=0, atol=F32_PATHS)
    np.testing.assert_allclose(traj.old_logp, token_log_probs(policy, params, traj), rtol=0, atol=F32_PATHS)
    assert np.ptp(np.asarray(chosen)) > 1000 * F32_PATHS  # the agreement is not that of constants


def test_cached_decoding_equals_a_full_forward_pass_per_token(drawn):
    slow = sample(Cacheless(**vars(drawn.policy)), drawn.params, drawn.prompt, jax.random.key(3), rounds=ROUNDS)
    np.testing.assert_array_equal(slow.answers, drawn.rounds.answers)
    np.testing.assert_array_equal(slow.decisions, drawn.rounds.decisions)
    np.testing.assert_allclose(slow.logp_answers, drawn.rounds.logp_answers, rtol=0, atol=F32_PATHS)
    np.testing.assert_allclose(slow.log_decision, drawn.rounds.log_decision, rtol=0, atol=F32_PATHS)


def test_cached_decoding_in_float64(flax64):
    policy = make_policy("full", True)
    params = lively(policy, jnp.float64)
    prompt = jnp.asarray([[0, 1], [4, 2]], jnp.int32)
    rounds = sample(policy, params, prompt, jax.random.key(0), rounds=ROUNDS)
    log_s, log_d = log_dists(policy, params, prompt, rounds.answers)
    assert rounds.log_decision.dtype == log_d.dtype == jnp.float64
    chosen = np.take_along_axis(np.asarray(log_s), np.asarray(rounds.answers)[..., None], -1)[..., 0]
    np.testing.assert_allclose(rounds.logp_answers, chosen, rtol=0, atol=F64_PATHS)
    np.testing.assert_allclose(rounds.log_decision, log_d, rtol=0, atol=F64_PATHS)


def reads(round_: int, offset: int, history: str) -> tuple[np.ndarray, np.ndarray]:
    """(bool[K, L], bool[K]): which entries of log pi_sample and log pi_d may depend on one answer token."""
    sample, decide = np.zeros((ROUNDS, LENGTH), bool), np.zeros(ROUNDS, bool)
    sample[round_, offset + 1 :] = True
    decide[round_] = True
    if history == "full":
        sample[round_ + 1 :], decide[round_ + 1 :] = True, True
    return sample, decide


def test_an_output_depends_on_exactly_the_tokens_before_it(drawn):
    """Masked keys have weight exactly 0, so what may not depend is bitwise equal; what may, changes visibly."""
    policy, params, prompt, rounds, _ = drawn
    before = log_dists(policy, params, prompt, rounds.answers)
    for k in range(ROUNDS):
        for j in range(LENGTH):
            changed = rounds.answers.at[:, k, j].set((rounds.answers[:, k, j] + 1) % 3)
            after = log_dists(policy, params, prompt, changed)
            for x, y, may in zip(before, after, reads(k, j, policy.history), strict=True):
                moved = np.abs(np.asarray(x) - np.asarray(y)).max(axis=(0, -1))
                assert (moved[~may] == 0).all()
                assert (moved[may] > 10 * F32_PATHS).all()


def test_every_output_depends_on_every_prompt_token(drawn):
    policy, params, prompt, rounds, _ = drawn
    before = log_dists(policy, params, prompt, rounds.answers)
    for p in range(2):
        after = log_dists(policy, params, prompt.at[:, p].set((prompt[:, p] + 1) % 5), rounds.answers)
        for x, y in zip(before, after, strict=True):
            assert (np.abs(np.asarray(x) - np.asarray(y)).max(axis=(0, -1)) > 10 * F32_PATHS).all()


def test_without_history_rounds_share_one_law(drawn):
    policy, params, prompt, rounds, _ = drawn
    same = jnp.broadcast_to(rounds.answers[:, :1], rounds.answers.shape)
    log_s, log_d = log_dists(policy, params, prompt, same)
    spread = max(float(np.ptp(np.asarray(x), axis=1).max()) for x in (log_s, log_d))
    assert spread <= F32_PATHS if policy.history == "none" else spread > 10 * F32_PATHS


def test_the_dists_are_normalised(drawn):
    for x in log_dists(drawn.policy, drawn.params, drawn.prompt, drawn.rounds.answers):
        np.testing.assert_allclose(np.exp(np.asarray(x, float)).sum(-1), 1.0, atol=1e-6)


@functools.partial(jax.jit, static_argnames=("policy",))
def gradients(policy, params, traj):
    objective = resolve("reinforce", {"baseline": "batch_mean"})
    total = jax.grad(lambda p: -jnp.divide(*objective(log_probs(policy, p, traj), traj)))(params)
    return component_gradients(policy, params, traj, objective), total


def test_components_add_up_and_keep_to_their_trunk(drawn):
    split, total = gradients(drawn.policy, drawn.params, drawn.traj)
    for got, want in zip(jax.tree.leaves(split.total), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=F32_PATHS * max(1.0, float(jnp.abs(want).max())))

    def size(tree) -> float:
        return float(sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree)))

    own = {"sample": {"sample_head"}, "decision": {"decide_head"}}
    if drawn.policy.separate_trunks:
        own["sample"].add("trunks_sample")
        own["decision"].add("trunks_decide")
    else:
        for names in own.values():
            names.add("trunks_shared")
    for name, parts in own.items():
        gradient = getattr(split, name)
        for part, sub in gradient.items():
            assert (size(sub) > 0) == (part in parts), (name, part)


def test_the_gradient_of_j_on_an_enumerated_process(flax64):
    """Level 2: autodiff through the exact J equals what REINFORCE gives on the exact law, both components together."""
    case = make_case(MIDDLE, cost=0.1)
    V, L, T, Q, history = MIDDLE
    policy = make_policy(history, prompt_vocabulary=Q, prompt_length=1, vocabulary=V, length=L, rounds=T)
    params = lively(policy, jnp.float64)

    @jax.jit
    def both(params):
        process = case.process
        traj = process.enumerate_trajectories(policy, params)
        support = process.support()
        J, exact = jax.value_and_grad(lambda p: process.expected_return(process.tables(log_probs(policy, p, support))))(
            params
        )
        return traj, J, exact, component_gradients(policy, params, traj, resolve("reinforce"))

    traj, J, exact, split = both(params)
    assert float(traj.weight.sum()) == pytest.approx(1, abs=TIGHT)
    assert float(J) == pytest.approx(float(jnp.sum(traj.weight * traj.reward)), abs=TIGHT)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(exact)) > 1e-3
    for got, want in zip(jax.tree.leaves(split.total), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=100 * TIGHT)


@pytest.mark.parametrize("features", [2, 5, 9])
def test_the_product_is_the_matrix_product(x64, features):
    """Narrowing, square and widening; derivatives forwards, backwards and over a batch of kernels."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (3, 4, 5))
    kernels = jax.random.normal(keys[1], (2, 5, features))
    dx, dkernels = jax.random.normal(keys[2], x.shape), jax.random.normal(keys[3], kernels.shape)

    def all_of(f):
        def one(kernel, dkernel):
            y, dy = jax.jvp(f, (x, kernel), (dx, dkernel))
            return y, dy, jax.vjp(f, x, kernel)[1](dy)

        return jax.jit(jax.vmap(one))(kernels, dkernels)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=TIGHT, atol=TIGHT),
        all_of(product),
        all_of(lambda x, kernel: jnp.einsum("abi,ij->abj", x, kernel)),
    )


def test_the_product_in_low_precision_is_rounded_once():
    """Value and gradient of bfloat16 factors against the exact products of the same factors, by NumPy in float64.

    Rounding to 8 significant bits is off by at most 2^-8 of the value; sums of 192 terms in float32 by less than 1e-5
    of the sum of absolute terms. Sums kept in bfloat16 would be off by several times the first.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, dy = (
        jax.random.normal(key, shape, jnp.bfloat16)
        for key, shape in zip(keys, [(3, 64, 32), (32, 48), (3, 64, 48)], strict=True)
    )
    y, pull = jax.vjp(product, x, kernel)
    got = (y, *pull(dy))
    a, w, g = (np.asarray(v, np.float64) for v in (x, kernel, dy))
    want = (a @ w, g @ w.T, np.einsum("abi,abj->ij", a, g))
    terms = (abs(a) @ abs(w), abs(g) @ abs(w).T, np.einsum("abi,abj->ij", abs(a), abs(g)))
    for found, exact, size in zip(got, want, terms, strict=True):
        assert found.dtype == jnp.bfloat16
        assert (abs(np.asarray(found, np.float64) - exact) <= 2.0**-8 * abs(exact) + 1e-5 * size).all()


def test_the_product_in_low_precision_is_one_that_matrix_units_do():
    """On processors: no product of float32 copies, neither forwards nor backwards."""
    x, kernel = jnp.ones((8, 4), jnp.bfloat16), jnp.ones((4, 6), jnp.bfloat16)
    step = jax.jit(lambda x, kernel, dy: jax.vjp(product, x, kernel)[1](dy))
    text = step.trace(x, kernel, jnp.ones((8, 6), jnp.bfloat16)).lower(lowering_platforms=("cpu",)).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) == 2
    assert all(re.search(r": \(tensor<\w+xbf16>, tensor<\w+xbf16>\) -> tensor<\w+xf32>", line) for line in dots), dots


def test_the_width_must_split_over_the_heads():
    with pytest.raises(InputError, match="width") as error:
        make_policy(width=7).init(jax.random.key(0))
    assert "multiple of heads = 2" in str(error.value)


def test_static_and_hashable():
    assert make_policy() == make_policy()
    assert hash(make_policy()) == hash(make_policy())
    assert (make_policy().attempt_id, make_policy().num_ids) == (5, 6)
    assert not jax.tree.leaves(make_policy())


def with_critic(policy: TransformerPolicy) -> TransformerPolicy:
    return policy.replace(critic=True)


def test_a_critic_changes_nothing_else(drawn):
    """Its own parameters apart, the same ones from the same key, and the same laws, bit for bit."""
    policy, critic = drawn.policy, with_critic(drawn.policy)
    without, with_ = jax.jit(lambda key: (policy.init(key), critic.init(key)))(jax.random.key(7))
    assert set(with_) - set(without) == {"value_head"}
    assert {name.split("_")[0] for name in without} == {"trunks", "sample", "decide"}
    jax.tree.map(np.testing.assert_array_equal, {k: with_[k] for k in without}, without)
    assert with_["value_head"]["kernel"].shape == (8, ROUNDS)
    params = {**drawn.params, "value_head": with_["value_head"]}
    got = log_dists(critic, params, drawn.prompt, drawn.rounds.answers)
    for a, b in zip(got, log_dists(policy, drawn.params, drawn.prompt, drawn.rounds.answers), strict=True):
        np.testing.assert_array_equal(a, b)


@functools.partial(jax.jit, static_argnames=("policy",))
def values(policy, params, prompt, answers):
    return policy.values(params, prompt, answers)


def test_a_value_depends_on_exactly_what_its_factor_depends_on(drawn):
    """Before each answer token and before the decision: never on the token that is valued next."""
    critic, prompt, answers = with_critic(drawn.policy), drawn.prompt, drawn.rounds.answers
    params = lively(critic)
    before = np.asarray(values(critic, params, prompt, answers))
    assert before.shape == (BATCH, ROUNDS, LENGTH + 1)
    for k in range(ROUNDS):
        for j in range(LENGTH):
            changed = answers.at[:, k, j].set((answers[:, k, j] + 1) % 3)
            moved = np.abs(np.asarray(values(critic, params, prompt, changed)) - before).max(axis=0)
            sample, decide = reads(k, j, critic.history)
            may = np.concatenate([sample, decide[:, None]], axis=1)
            assert (moved[~may] == 0).all()
            assert (moved[may] > 10 * F32_PATHS).all()
    for p in range(2):
        changed = prompt.at[:, p].set((prompt[:, p] + 1) % 5)
        assert (np.abs(np.asarray(values(critic, params, changed, answers)) - before).max(axis=0) > F32_PATHS).all()


def test_values_know_the_round(drawn):
    """Equal answers in all rounds: a memoryless law is the same in each, what is left to gain is not."""
    critic = with_critic(drawn.policy)
    same = jnp.broadcast_to(drawn.rounds.answers[:, :1], drawn.rounds.answers.shape)
    assert np.ptp(np.asarray(values(critic, lively(critic), drawn.prompt, same)), axis=1).max() > 1000 * F32_PATHS
    fewer = values(critic, lively(critic), drawn.prompt, same[:, :1])
    # Masked keys weigh exactly 0; the sums over the others may be arranged in another way.
    whole = values(critic, lively(critic), drawn.prompt, same)
    np.testing.assert_allclose(fewer, whole[:, :1], rtol=0, atol=F32_PATHS)


def test_value_and_law_share_a_forward_pass():
    """Compiled together they cost what the laws cost and the value head: not a second trunk."""
    policy = with_critic(make_policy(width=32))
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    row = jax.ShapeDtypeStruct((BATCH, 2), jnp.int32), jax.ShapeDtypeStruct((BATCH, ROUNDS, LENGTH), jnp.int32)

    def operations(*functions: Any) -> float:
        cost: Any = jax.jit(lambda *xs: [f(*xs) for f in functions]).lower(shapes, *row).compile().cost_analysis()
        return cost["flops"]

    laws, value, both = ((policy.log_dists,), (policy.values,), (policy.log_dists, policy.values))
    assert operations(*both) - operations(*laws) < 0.1 * operations(*value)


def test_low_precision_is_of_the_trunk_alone():
    """bfloat16 products: outputs, parameters and gradients stay float32, log-probs normalise in float32."""
    policy = TransformerPolicy(3, 1, 3, 2, 2, layers=1, width=8, heads=2)
    low = policy.replace(dtype="bfloat16")
    params = policy.init(jax.random.key(0))
    prompt, answers = jnp.zeros((4, 1), jnp.int32), jnp.ones((4, 2, 2), jnp.int32)
    exact, rounded = (jax.jit(p.log_dists)(params, prompt, answers)[0] for p in (policy, low))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(rounded).sum(-1), 1.0, atol=8 * float(jnp.finfo(jnp.float32).eps))
    # Hidden states of order one, a few roundings of 2^-8 each: close, and not the same program.
    assert 0 < float(jnp.abs(exact - rounded).max()) < 0.1
    gradient = jax.eval_shape(jax.grad(lambda p: low.log_dists(p, prompt, answers)[0].sum()), params)
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    cache = jax.eval_shape(lambda p: low.start(p, prompt, 2), params)
    assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}


def test_the_network_is_traced_once_a_shape(monkeypatch):
    """However often a program asks it, and of whatever parameters; Python would else run all layers each time."""
    asked, apply = [], TransformerPolicy._apply
    monkeypatch.setattr(
        TransformerPolicy, "_apply", lambda *x, **how: (asked.append(how["method"]), apply(*x, **how))[1]
    )
    policy = TransformerPolicy(3, 1, 3, 2, 2, layers=1, width=12, heads=3)  # of a size that no other test traces
    params = jax.eval_shape(policy.init, jax.random.key(0))

    def loss(params, base, answers):
        sizes = [jnp.sum(policy.log_dists(p, answers[:, 0, :1], answers)[0]) for p in (params, base)]
        return sizes[0] - sizes[1]

    jax.make_jaxpr(jax.grad(loss))(params, params, jnp.zeros((4, 2, 2), jnp.int32))
    assert asked == ["teacher_forced"]

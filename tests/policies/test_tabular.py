"""Tabular policies: normalised, causal, and blind to what they must not see (zero gradient, exactly)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dsjax.errors import InputError
from dsjax.policies import Params, Policy, PositionwisePolicy, SaturatedPolicy, SharedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from tests import oracle
from tests.cases import TIGHT, Shape, enumerated, make_case, random_params, support

V, L, T, Q = 2, 2, 3, 2


NAMES = ("none", "full", "positionwise", "shared")


def make(name: str) -> tuple[Policy, Params]:
    """A policy with parameters from NumPy, which compile nothing."""
    rng = np.random.default_rng(7)
    if name == "positionwise":
        policy = PositionwisePolicy(Q, V, L, reads=1)
        return policy, positionwise_params(policy)
    base = SaturatedPolicy(Q, V, L, T, "none" if name == "none" else "full")
    if name != "shared":
        return base, random_params(base, rng)
    size = sum(int(np.prod(s)) for s in base.shapes().values())
    return SharedPolicy(base, jnp.asarray(rng.normal(size=(size, 5)) / 5**0.5)), jnp.asarray(rng.normal(size=5))


def positionwise_params(policy: PositionwisePolicy) -> Params:
    rng = np.random.default_rng(8)
    return {
        "sample": jnp.asarray(rng.normal(size=(policy.num_prompts, policy.length, policy.vocabulary))),
        "decision": jnp.asarray(rng.normal(size=(policy.num_prompts, policy.vocabulary**policy.reads, 2))),
    }


def inputs(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, Q, (6, 1)), jnp.int32), jnp.asarray(rng.integers(0, V, (6, T, L)), jnp.int32)


@pytest.mark.parametrize("name", NAMES)
def test_both_heads_are_normalised(x64, name):
    policy, params = make(name)
    log_s, log_d = jax.jit(policy.log_dists)(params, *inputs())
    assert log_s.shape == (6, T, L, V)
    assert log_d.shape == (6, T, 2)
    for x in (log_s, log_d):
        assert x.dtype == jnp.float64
        # log_softmax is good to a few eps for logits of order 1.
        np.testing.assert_allclose(np.exp(x).sum(-1), 1.0, rtol=0, atol=1e-14)


def changed(x: jax.Array, k: int, j: int) -> np.ndarray:
    out = np.array(x)
    out[:, k, j] = (out[:, k, j] + 1) % V
    return out


@pytest.mark.parametrize("name", NAMES)
def test_causal(x64, name):
    """Changing token (k, j) moves only what comes after it, and really moves something if it may be seen."""
    policy, params = make(name)
    prompt, answers = inputs()
    dists = jax.jit(policy.log_dists)
    before_s, before_d = dists(params, prompt, answers)
    for k in range(T):
        for j in range(L):
            after_s, after_d = dists(params, prompt, changed(answers, k, j))
            np.testing.assert_array_equal(after_s[:, :k], before_s[:, :k])
            np.testing.assert_array_equal(after_s[:, k, : j + 1], before_s[:, k, : j + 1])
            np.testing.assert_array_equal(after_d[:, :k], before_d[:, :k])
            if name in ("none", "positionwise"):  # other rounds are out of sight
                np.testing.assert_array_equal(after_s[:, k + 1 :], before_s[:, k + 1 :])
                np.testing.assert_array_equal(after_d[:, k + 1 :], before_d[:, k + 1 :])
            elif k < T - 1:
                assert np.abs(after_s[:, k + 1 :] - before_s[:, k + 1 :]).min() > 0
            if name != "positionwise":
                assert np.abs(after_d[:, k] - before_d[:, k]).min() > 0 or k == T - 1
                assert j == L - 1 or np.abs(after_s[:, k, j + 1 :] - before_s[:, k, j + 1 :]).min() > 0


def test_the_layout_of_the_logit_tables_is_the_documented_one(x64):
    """The log-probs of every trajectory against dictionaries of contexts: full and none, two answer lengths."""
    for shape in (Shape(2, 2, 2, 2, "full"), Shape(2, 2, 2, 2, "none"), Shape(3, 1, 2, 1, "full")):
        case = make_case(shape, seed=5)
        traj = enumerated(case.process, case.policy, case.params)
        assert traj.old_logp is not None
        logp = np.asarray(traj.old_logp)
        tables = {"sample": case.toy.sample, "decision": case.toy.decision}
        for row, mask, w in zip(logp, np.asarray(traj.mask), oracle.enumerate_toy(case.toy), strict=True):
            expected = [np.log(tables[f.component][f.context][f.choice]) for f in w.factors]
            np.testing.assert_allclose(row[mask], expected, rtol=0, atol=TIGHT)
            assert not row[~mask].any()


@pytest.mark.parametrize("history", ["none", "full"])
def test_gradient_to_other_contexts_is_exactly_zero(x64, history):
    """One trajectory touches one softmax row per token and nothing else."""
    case = make_case(Shape(V, L, 2, Q, history), seed=2)
    traj, brute = support(case.process), oracle.enumerate_toy(case.toy)
    rows = jax.jit(jax.jacrev(lambda p: log_probs(case.policy, p, traj).sum(-1)))(case.params)
    for i in (0, 5, len(brute) - 1):
        for name in ("sample", "decision"):
            touched = {f.context for f in brute[i].factors if f.component == name}
            gradient = np.asarray(rows[name][i]).reshape(-1, rows[name].shape[-1])
            for context, row in zip(case.toy.layout(name), gradient, strict=True):
                assert (context in touched) == bool(np.abs(row).max() > 0)


def test_shared_policy_is_its_base_on_features_times_theta(x64):
    shared, theta = make("shared")
    assert isinstance(shared, SharedPolicy)
    base = shared.base
    _, unravel = ravel_pytree(random_params(base, np.random.default_rng(0)))
    prompt, answers = inputs()
    dists = jax.jit(shared.log_dists)(theta, prompt, answers)
    expected = jax.jit(base.log_dists)(unravel(shared.features @ theta), prompt, answers)
    for a, b in zip(dists, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)  # two orders of adding up five products
    assert shared.length == L
    # Both components really read the same parameters.
    both = jax.jit(jax.jacrev(lambda p: [x[..., 0].sum() for x in shared.log_dists(p, prompt, answers)]))(theta)
    assert all(np.abs(gradient).min() > 0 for gradient in both)


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_positionwise_reads_what_it_says(x64, reads):
    policy = PositionwisePolicy(Q, V, L, reads=reads)
    params, (prompt, answers) = positionwise_params(policy), inputs()
    dists = jax.jit(policy.log_dists)
    assert params["decision"].shape == (Q, V**reads, 2)
    log_s, log_d = dists(params, prompt, answers)
    np.testing.assert_array_equal(log_s, np.broadcast_to(np.asarray(log_s)[:, :1], log_s.shape))  # every round alike
    for j in range(L):
        other_s, other_d = dists(params, prompt, changed(answers, 0, j))
        np.testing.assert_array_equal(other_s, log_s)  # no token reads another
        moved = bool(np.abs(other_d[:, 0] - log_d[:, 0]).max() > 0)
        assert moved == (j < reads)
    # Filler after the tokens that are read: its logits get no gradient from a decision.
    gradient = jax.jit(jax.grad(lambda p: policy.log_dists(p, prompt, answers)[1][..., 0].sum()))(params)
    assert not np.asarray(gradient["sample"]).any()


def test_positionwise_at_a_length_where_a_whole_answer_has_no_number(x64):
    """V^L overflows every integer at L = 200; the decider's two tokens do not."""
    policy = PositionwisePolicy(1, 3, 200, reads=2)
    params = positionwise_params(policy)
    answers = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 1, 200)), jnp.int32)
    _, log_d = policy.log_dists(params, jnp.zeros((4, 1), jnp.int32), answers)
    code = np.asarray(answers[:, 0, 0] * 3 + answers[:, 0, 1])
    np.testing.assert_allclose(log_d[:, 0], jax.nn.log_softmax(params["decision"][0, code]), rtol=0, atol=1e-15)


def test_positionwise_refuses_to_read_more_than_there_is():
    with pytest.raises(InputError, match=r"reads: received 3; allowed: 0\.\.2"):
        PositionwisePolicy(1, 2, 2, reads=3).init(jax.random.key(0))


def test_sizes_and_scale(x64):
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.full(2, 0.5), reward_table=jnp.zeros((2, 4)), vocabulary=2, length=2, rounds=3, history="full"
    )
    policy = SaturatedPolicy.for_process(process)
    # Histories 1 + 4 + 16 for the sampler, 1 + 4 for the decider; prefixes 1 + 2.
    assert policy.shapes() == {"sample": (2, 21, 3, 2), "decision": (2, 5, 4, 2)}
    one, two = policy.init(jax.random.key(0)), policy.init(jax.random.key(0), scale=2.0)
    for name, shape in policy.shapes().items():
        assert one[name].shape == shape
        np.testing.assert_array_equal(2 * one[name], two[name])
    shared = SharedPolicy.random(policy, 3, jax.random.key(1))
    assert shared.features.shape == (2 * 21 * 3 * 2 + 2 * 5 * 4 * 2, 3)
    assert shared.init(jax.random.key(2)).shape == (3,)

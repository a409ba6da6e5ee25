"""The one pytree: constructors, masks, validation, words, and life under jit and vmap."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.trajectories import RESAMPLE, STOP, Trajectories
from tests import cases
from tests.cases import MIDDLE, TIGHT, enumerated, make_case, ragged_batch


def rounds(**change):
    """Arguments of `from_rounds` for B = 3, K = T = 3, L = 2; stops in rounds 1, 2 and (by force) 3."""
    fields = {
        "prompt": jnp.asarray([[4], [5], [6]], jnp.int32),
        "answers": jnp.asarray(np.arange(18).reshape(3, 3, 2) % 3, jnp.int32),
        "stop_round": jnp.asarray([0, 1, 2], jnp.int32),
        "horizon": 3,
        "reward": jnp.asarray([1.0, 0.0, 0.5]),
        "weight": jnp.full(3, 1 / 3),
        "group": jnp.asarray([0, 0, 1], jnp.int32),
        "num_groups": 2,
    }
    return {**fields, **change}


def test_masks_follow_the_stopping_round():
    traj = Trajectories.from_rounds(**rounds())
    s, d = np.asarray(traj.sample_mask).reshape(3, 3, 3), np.asarray(traj.decision_mask).reshape(3, 3, 3)
    assert not (s & d).any()
    assert s[..., 2].sum() == d[..., :2].sum() == 0
    np.testing.assert_array_equal(s[..., 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(s[..., 0], s[..., 1])
    # The stop of the last round is forced: no decision token there.
    np.testing.assert_array_equal(d[..., 2], [[1, 0, 0], [1, 1, 0], [1, 1, 0]])
    decisions = [np.asarray(t)[m].tolist() for t, m in zip(traj.tokens, np.asarray(traj.decision_mask), strict=True)]
    assert decisions == [[STOP], [RESAMPLE, STOP], [RESAMPLE, RESAMPLE]]
    np.testing.assert_array_equal(traj.num_tokens, [3, 6, 8])
    np.testing.assert_array_equal(traj.round[0], np.repeat([0, 1, 2], 3))
    np.testing.assert_array_equal(traj.answers(2), rounds()["answers"])
    np.testing.assert_array_equal(traj.mask, (s | d).reshape(3, 9))


def test_fewer_rounds_than_the_horizon_are_not_forced():
    """K = 2 rounds of a process with T = 3: the stop of round 2 is a decision that was taken."""
    traj = Trajectories.from_rounds(
        **rounds(answers=rounds()["answers"][:, :2], stop_round=jnp.asarray([0, 1, 1], jnp.int32))
    )
    d = np.asarray(traj.decision_mask).reshape(3, 2, 3)[..., 2]
    np.testing.assert_array_equal(d, [[1, 0], [1, 1], [1, 1]])
    assert int(traj.tokens[1, -1]) == STOP
    forced = Trajectories.from_rounds(
        **rounds(answers=rounds()["answers"][:, :2], stop_round=jnp.asarray([0, 1, 1], jnp.int32), horizon=2)
    )
    np.testing.assert_array_equal(np.asarray(forced.decision_mask).reshape(3, 2, 3)[..., 2], [[1, 0], [1, 0], [1, 0]])


def test_horizon_one_has_no_decisions():
    traj = Trajectories.from_rounds(
        **rounds(answers=rounds()["answers"][:, :1], stop_round=jnp.zeros(3, jnp.int32), horizon=1)
    )
    assert not np.asarray(traj.decision_mask).any()
    assert np.asarray(traj.sample_mask).sum() == 6


def test_answers_that_are_shown_but_not_imitated():
    """They lose their sampling tokens and keep their decision; everything else is as before."""
    imitated = jnp.asarray([[True, True, True], [False, True, True], [False, False, True]])
    plain, traj = Trajectories.from_rounds(**rounds()), Trajectories.from_rounds(**rounds(imitated=imitated))
    s = np.asarray(traj.sample_mask).reshape(3, 3, 3)[..., 0]
    np.testing.assert_array_equal(s, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(traj.decision_mask, plain.decision_mask)
    np.testing.assert_array_equal(traj.tokens, plain.tokens)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rounds", {"horizon": 2}),
        ("answers.shape", {"answers": jnp.zeros((3, 6), jnp.int32)}),
        ("stop_round", {"stop_round": jnp.asarray([0, 1, 3], jnp.int32)}),
        ("stop_round", {"stop_round": jnp.asarray([0, 1, -1], jnp.int32)}),
        ("reward.shape", {"reward": jnp.zeros(4)}),
        ("weight.shape", {"weight": jnp.zeros((3, 1))}),
        ("group.shape", {"group": jnp.zeros(2, jnp.int32)}),
        ("prompt.shape", {"prompt": jnp.zeros(3, jnp.int32)}),
        ("prompt.dtype", {"prompt": jnp.zeros((3, 1))}),
        ("reward.dtype", {"reward": jnp.zeros(3, jnp.int32)}),
        ("weight.dtype", {"weight": jnp.ones(3, jnp.int32)}),
        ("num_groups", {"num_groups": 0, "group": jnp.zeros(3, jnp.int32)}),
        ("group", {"group": jnp.asarray([0, 1, 2], jnp.int32)}),
        ("group", {"group": jnp.asarray([0, -1, 0], jnp.int32)}),
        ("reward", {"reward": jnp.asarray([0.0, jnp.nan, 0.0])}),
        ("reward", {"reward": jnp.asarray([0.0, jnp.inf, 0.0])}),
        ("weight", {"weight": jnp.asarray([0.5, -0.1, 0.6])}),
        ("weight", {"weight": jnp.asarray([0.5, jnp.nan, 0.5])}),
        ("sum of weight", {"exact": True, "weight": jnp.asarray([0.5, 0.4, 0.2])}),
    ],
)
def test_from_rounds_names_the_field(field, change):
    with pytest.raises(InputError) as error:
        Trajectories.from_rounds(**rounds(**change))
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: received ")


def overlap(traj):
    return {"sample_mask": traj.mask}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("sample_mask & decision_mask", overlap),
        ("tokens.shape", lambda t: {"tokens": t.tokens[0]}),
        ("tokens.dtype", lambda t: {"tokens": t.tokens.astype(jnp.float32)}),
        ("sample_mask.shape", lambda t: {"sample_mask": t.sample_mask[:, 1:]}),
        ("decision_mask.shape", lambda t: {"decision_mask": t.decision_mask[:2]}),
        ("decision_mask.dtype", lambda t: {"decision_mask": t.decision_mask.astype(jnp.int32)}),
        ("round.shape", lambda t: {"round": t.round[0]}),
        ("round.dtype", lambda t: {"round": t.round.astype(jnp.float32)}),
        ("group.dtype", lambda t: {"group": t.group.astype(jnp.float32)}),
        ("old_logp.shape", lambda t: {"old_logp": t.reward}),
        ("ref_logp.dtype", lambda t: {"ref_logp": t.tokens}),
        ("old_logp", lambda t: {"old_logp": jnp.full(t.tokens.shape, 0.1)}),
        ("ref_logp", lambda t: {"ref_logp": jnp.where(t.mask, -jnp.inf, 0.0)}),
    ],
)
def test_create_names_the_field(field, change):
    good = Trajectories.from_rounds(**rounds())
    fields = {f.name: getattr(good, f.name) for f in dataclasses.fields(good)}
    assert Trajectories.create(**fields).num_groups == 2
    with pytest.raises(InputError) as error:
        Trajectories.create(**{**fields, **change(good)})
    assert error.value.field == field


def test_no_trajectory_at_all_is_bad_input():
    empty: dict[str, Any] = {k: v[:0] if isinstance(v, jax.Array) else v for k, v in rounds().items()}
    with pytest.raises(InputError, match=r"tokens\.shape"):
        Trajectories.from_rounds(**empty)


def test_what_stands_behind_the_masks_is_not_checked():
    """Padding may hold anything, NaN and positive numbers included."""
    good = Trajectories.from_rounds(**rounds())
    junk = jnp.where(good.mask, -1.0, jnp.nan)
    assert Trajectories.create(**{**vars(good), "old_logp": junk, "ref_logp": -junk * 0 - 1}).old_logp is junk


def test_the_answer_length_must_divide_the_token_axis():
    traj = Trajectories.from_rounds(**rounds())
    with pytest.raises(InputError, match="answer length: received 3"):
        traj.answers(3)


def test_describe_tells_one_trajectory_in_words():
    traj = Trajectories.from_rounds(**rounds())
    assert traj.describe(0, 2) == "prompt 4 | 0 1 STOP | R = 1, weight = 0.3333"
    assert traj.describe(1, 2) == "prompt 5 | 0 1 RESAMPLE | 2 0 STOP | R = 0, weight = 0.3333"
    assert (
        traj.describe(2, 2) == "prompt 6 | 0 1 RESAMPLE | 2 0 RESAMPLE | 1 2 (forced STOP) | R = 0.5, weight = 0.3333"
    )


def test_repr_is_one_readable_line(x64):
    _, traj = ragged_batch()
    text = repr(traj)
    assert "\n" not in text
    for part in ("8 x 9 tokens", "samples", "2 groups", "total weight 1", "float64", "with old_logp and ref_logp"):
        assert part in text
    case = make_case(MIDDLE)
    exact = enumerated(case.process, case.policy, case.params)
    assert "exact law" in repr(exact)
    assert f"{case.process.num_trajectories} x 6 tokens" in repr(exact)


def test_repr_of_anything_shaped_like_trajectories(x64):
    """Inside of a trace, as shapes only, or with other leaves (axes, shardings): a repr never raises."""
    _, traj = ragged_batch()
    seen = []

    @jax.jit
    def f(t):
        seen.append(repr(t))
        return t.reward

    f(traj)
    assert seen == ["Trajectories(no values, tokens (8, 9))"]
    assert "(8, 9)" in repr(jax.eval_shape(lambda: traj))
    assert "Trajectories" in repr(jax.tree.map(lambda x: 0, traj))


def test_frozen():
    traj = Trajectories.from_rounds(**rounds())
    with pytest.raises(dataclasses.FrozenInstanceError):
        traj.reward = traj.reward + 1  # pyright: ignore[reportAttributeAccessIssue]
    assert traj.replace(reward=traj.reward + 1).reward[0] == 2


def test_jit_gives_what_eager_gives():
    eager = Trajectories.from_rounds(**rounds())
    arrays = {k: v for k, v in rounds().items() if isinstance(v, jax.Array)}

    @jax.jit
    def build(arrays):
        return Trajectories.from_rounds(**arrays, horizon=3, num_groups=2)

    jitted = build(arrays)
    assert jax.tree.structure(jitted) == jax.tree.structure(eager)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.jit(lambda t: t)(eager).num_groups == 2


def test_shapes_are_checked_inside_of_a_trace_too():
    bad = rounds(reward=jnp.zeros(4))
    arrays = {k: v for k, v in bad.items() if isinstance(v, jax.Array)}
    with pytest.raises(InputError, match=r"reward\.shape"):
        jax.jit(lambda a: Trajectories.from_rounds(**a, horizon=3, num_groups=2).reward)(arrays)


def test_vmap_over_batches(x64):
    batches = [ragged_batch(seed)[1] for seed in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    counts, blocks = jax.vmap(lambda t: (t.num_tokens, t.answers(2)))(stacked)
    for i, batch in enumerate(batches):
        np.testing.assert_array_equal(counts[i], batch.num_tokens)
        np.testing.assert_array_equal(blocks[i], batch.answers(2))


def test_under_replaces_the_law_and_lets_no_gradient_through(x64):
    case = make_case(MIDDLE)
    support = cases.support(case.process)
    logp = jnp.where(support.mask, -0.3, jnp.nan)  # NaN behind the masks must not reach the law
    traj = support.under(logp, support.weight)
    expected = np.asarray(support.weight) * np.exp(-0.3 * np.asarray(support.mask).sum(-1))
    np.testing.assert_allclose(traj.weight, expected, rtol=TIGHT)
    gradient = jax.grad(lambda x: jnp.sum(support.under(x, support.weight).weight))(logp)
    np.testing.assert_array_equal(gradient, 0.0)

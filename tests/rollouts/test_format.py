"""Format 2: what a real run has, and what format 1 read wrongly without a word."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.objectives import resolve
from dsjax.rollouts import attribute_rollouts
from dsjax.rollouts.format import check, read, unknown
from tests.cases import TIGHT
from tests.rollouts.test_rollouts import printed, tiny

S, D, _ = 1, 2, 0  # slots of pi_sample, of pi_d, of neither

# Three trajectories of one prompt and two of another: answers of 2, 1 and 3 tokens, decisions STOP and RESAMPLE.
SLOTS = np.array(
    [
        [_, S, S, D, _, _, _, _],
        [_, S, D, S, S, D, _, _],
        [_, S, S, S, D, S, _, _],
        [_, S, S, D, S, S, S, D],
        [_, S, D, _, _, _, _, _],
    ]
)


def run(**change) -> dict[str, Any]:
    """A file of those; NaN outside of the masks."""
    rng = np.random.default_rng(3)
    drawn = SLOTS > 0
    logp = np.where(drawn, -0.1 - rng.exponential(1.0, SLOTS.shape), np.nan)
    out = {
        "logp": logp,
        "old_logp": logp + rng.uniform(-0.05, 0.05, SLOTS.shape) - 0.05,
        "ref_logp": logp - 0.05,
        "sample_mask": SLOTS == S,
        "decision_mask": SLOTS == D,
        "reward": np.array([1.0, 0.0, 0.5, 1.0, 0.0]),
        "group": np.array([4, 4, 4, 9, 9]),
        "decision_choices": 2,
    }
    return {name: x for name, x in {**out, **change}.items() if x is not None}


def numbers(found) -> dict[str, Any]:
    """All that is told, but for how the file was laid out."""
    data = found.to_json()
    for name in ("rows_of_the_file", "arrays"):
        data["rollouts"].pop(name)
    return {name: x for name, x in data.items() if name != "notes"}


PER_TOKEN = ("logp", "old_logp", "ref_logp", "sample_mask", "decision_mask")


# How many choices a decision has.


def test_a_decision_is_two_way_only_where_the_file_says_so():
    """Read as two-way, the second moment was exact and the push on STOP that of STOP and RESAMPLE alone."""
    with pytest.raises(
        InputError, match=r"decision_choices: received 'no such array'; allowed: 2 where .* Until format"
    ):
        attribute_rollouts("grpo", **run(decision_choices=None))
    assert check(run(decision_choices=None, decision_mask=np.zeros(SLOTS.shape))).decision_choices is None
    two, many = (attribute_rollouts("grpo", resamples=5, **run(decision_choices=n)) for n in (2, 150_000))
    assert many.logit_space["decision"]["status"] == "bound"
    assert many.logit_space["decision"]["lower"].value == pytest.approx(
        two.logit_space["decision"]["lower"].value * (1 + 1 / 149_999) / 2, rel=1e-12
    )
    assert many.decisions["STOP"]["push_on_stop_logit"] is None


def test_stop_logp_gives_the_push_of_any_vocabulary():
    """k d log pi(drawn)/d z_STOP by central differences of a softmax over seven tokens, STOP the fourth."""
    rng = np.random.default_rng(0)
    arrays = run(decision_choices=7)
    decides = arrays["decision_mask"]
    stop = check(arrays).decision == 0
    logits = rng.normal(size=(*SLOTS.shape, 7))
    drawn = np.where(stop, 3, 5)

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def of(z, token):
        return np.take_along_axis(log_softmax(z), token[..., None], -1)[..., 0]

    step = 1e-5 * (np.arange(7) == 3)
    slope = (of(logits + step, drawn) - of(logits - step, drawn)) / 2e-5
    arrays["logp"] = np.where(decides, of(logits, drawn), arrays["logp"])
    arrays["stop_logp"] = np.where(decides, log_softmax(logits)[..., 3], np.nan)
    found = attribute_rollouts("reinforce", resamples=5, **arrays)
    k = found.coefficients * len(SLOTS)
    for i, name in enumerate(("STOP", "RESAMPLE")):
        mask = decides & (stop == (i == 0))
        # Central differences: step^2 and eps/step, both below 1e-10.
        assert found.decisions[name]["push_on_stop_logit"] == pytest.approx(np.mean((k * slope)[mask]), rel=1e-8)
    with pytest.raises(InputError, match=r"stop_logp: received .*; allowed: at least the log-prob"):
        attribute_rollouts("sft", **{**arrays, "stop_logp": arrays["logp"] - 1.0})
    with pytest.raises(InputError, match=r"stop_logp: received .*; allowed: p.STOP. of at most 1 - p"):
        attribute_rollouts("sft", **{**arrays, "stop_logp": np.where(stop, arrays["logp"], -1e-9)})


# Rows that do not count, that are parts of a trajectory, or that hold several.


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo"])
def test_weight_0_takes_a_row_out_of_its_group(name):
    """Whatever it holds: the others' baseline, their standard deviation and the counts are those without it."""
    plain = run()
    extra: dict[str, Any] = {n: np.concatenate([x, x[:1]]) for n, x in plain.items() if n != "decision_choices"}
    extra |= {"reward": np.r_[plain["reward"], np.nan], "weight": np.r_[np.full(5, 0.3), 0.0], "decision_choices": 2}
    extra["logp"] = np.concatenate([plain["logp"], np.full((1, 8), np.nan)])
    with_it, without = (attribute_rollouts(name, resamples=5, **arrays) for arrays in (extra, plain))
    np.testing.assert_array_equal(with_it.coefficients[5], 0.0)
    np.testing.assert_allclose(with_it.coefficients[:5], without.coefficients, rtol=1e-14)
    assert with_it.rollouts["trajectories"] == 5
    assert "Rows of weight 0 left out: 1 of 6." in with_it.notes


def test_one_padding_row_in_a_group_of_its_own_is_no_group():
    padded: dict[str, Any] = {n: np.concatenate([x, x[:1]]) for n, x in run().items() if n != "decision_choices"}
    padded |= {"group": np.r_[run()["group"], -1], "weight": np.r_[np.ones(5), 0.0], "decision_choices": 2}
    found = attribute_rollouts("rloo", resamples=5, **padded)
    assert found.rollouts["groups"] == 2
    np.testing.assert_allclose(found.coefficients[:5], attribute_rollouts("rloo", **run()).coefficients, rtol=1e-14)


def turns(arrays: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """The file with a row for each turn, and the slots (row, start, stop) that each took."""
    pieces = []
    for row, slots in enumerate(SLOTS):
        ends = [0, *(np.flatnonzero(slots == D) + 1), 8]
        pieces += [(row, a, b) for a, b in pairwise(ends) if (slots[a:b] > 0).any()]
    out = {
        n: np.stack([np.pad(x[i][a:b], (0, 8 - b + a)) for i, a, b in pieces])
        for n, x in arrays.items()
        if n in PER_TOKEN
    }
    return out, pieces


@pytest.mark.parametrize("name", ["grpo", "rloo", "sft"])
def test_rows_of_one_trajectory_are_joined(name):
    plain = run()
    by_turn, pieces = turns(plain)
    rows = [row for row, *_ in pieces]
    words = np.array([f"run-{'zyxwv'[row]}" for row in rows])
    by_turn |= {n: plain[n][rows] for n in ("reward", "group")} | {"trajectory": words, "decision_choices": 2}
    found, expected = (attribute_rollouts(name, resamples=5, **arrays) for arrays in (by_turn, plain))
    for i, (row, a, b) in enumerate(pieces):
        np.testing.assert_allclose(found.coefficients[i, : b - a], expected.coefficients[row, a:b], rtol=1e-13)
    for kind, row in expected.decisions.items():
        assert found.decisions[kind] == pytest.approx(row, rel=1e-12, abs=TIGHT)
    assert numbers(found)["rollouts"] == numbers(expected)["rollouts"]
    alone = attribute_rollouts("sft", resamples=5, **{**by_turn, "trajectory": None})
    assert alone.decisions["STOP"]["count"] == 7  # what format 1 made of it: a STOP at the end of every turn
    assert found.decisions["STOP"]["count"] == 4
    with pytest.raises(InputError, match=r"reward: received '3.0 at \[1\], and 1.0 at \[0\].*the return of the whole"):
        attribute_rollouts(
            name, **{**by_turn, "trajectory": np.zeros(8, int), "group": None, "reward": np.r_[1.0, np.full(7, 3.0)]}
        )


def test_packed_trajectories_are_taken_apart():
    """Two rows of two and three: the same numbers as with a row each; the coefficients stand where the tokens do."""
    plain = run()
    places = [(0, 0, 1), (0, 8, 2), (1, 0, 5), (1, 8, 3), (1, 16, 1)]  # row, first slot, id
    packed: dict[str, Any] = {n: np.zeros((2, 24), x.dtype) for n, x in plain.items() if n in PER_TOKEN}
    segment = np.zeros((2, 24), int)
    for i, (row, at, number) in enumerate(places):
        for name in PER_TOKEN:
            packed[name][row, at : at + 8] = plain[name][i]
        segment[row, at : at + 8] = number
    # The last trajectory needs an id of its own in its row.
    segment[1, 16:] = 7
    packed |= {"segment_ids": segment, "reward": plain["reward"], "group": plain["group"], "decision_choices": 2}
    found, expected = (attribute_rollouts("grpo", resamples=50, **arrays) for arrays in (packed, plain))
    assert numbers(found) == numbers(expected)
    for i, (row, at, _) in enumerate(places):
        np.testing.assert_array_equal(found.coefficients[row, at : at + 8], expected.coefficients[i])
    with pytest.raises(InputError, match=r"reward.shape: received \(2,\); allowed: \(5,\).*of 5 trajectories"):
        attribute_rollouts("grpo", **{**packed, "reward": np.zeros(2)})
    with pytest.raises(InputError, match=r"segment_ids: received '0 at \[0, 1\]"):
        attribute_rollouts("grpo", **{**packed, "segment_ids": 0 * segment})


# Decisions of several tokens, and of trajectories that were cut off.


def spelt() -> dict[str, Any]:
    """A first answer of 2 tokens, then `wait ,` and 2 more; and a STOP of one token. Old ratios differ by token."""
    slots = np.array([[S, S, D, D, S, S], [S, S, D, _, _, _]])
    logp = np.log(np.where(slots > 0, [[0.5, 0.5, 0.4, 0.9, 0.5, 0.5]], 1.0))
    old = logp - np.array([[0.0, 0.0, 0.3, -0.1, 0.0, 0.0]])
    return {
        "logp": logp,
        "old_logp": old,
        "sample_mask": slots == S,
        "decision_mask": slots == D,
        "decision_span": np.array([[0, 0, 5, 5, 0, 0], [0, 0, 5, 0, 0, 0]]),
        "advantage": np.array([-1.0, 1.0]),
        "decision_choices": 9,
    }


def test_a_span_is_one_decision_and_several_tokens():
    found = attribute_rollouts("grpo", resamples=5, **spelt())
    assert (found.rollouts["decisions"], found.rollouts["decision_tokens"], found.rollouts["answers"]) == (2, 3, 3)
    assert found.decisions["RESAMPLE"]["count"] == 1
    assert found.decisions["RESAMPLE"]["mean_probability"] == pytest.approx(0.4 * 0.9)
    # Ratios exp(0.3) and exp(-0.1) of a negative advantage, 6 tokens: no clip binds, unlike that of the merged slot.
    k = -np.exp([0.3, -0.1]) / 6
    np.testing.assert_allclose(found.coefficients[0, 2:4] * 2, k, rtol=1e-12)
    assert found.decisions["RESAMPLE"]["mean_coefficient"] == pytest.approx(k.mean())
    assert found.conventions["factor"]["decision"].value == pytest.approx(-k.mean() / 2)  # STOP is clipped
    merged = spelt()
    for name in ("logp", "old_logp"):
        merged[name][0, 2] = merged[name][0, 2:4].sum()
    merged["decision_mask"][0, 3] = False
    alone = attribute_rollouts("grpo", resamples=5, **merged)
    assert alone.coefficients[0, 2] * 2 == pytest.approx(-np.exp(0.2) / 5)  # another ratio, another T_i


SPANS = {
    "side by side": (
        [[0, 0, 5, 6, 0, 0], [0] * 6],
        r"decision_mask: received 'two decision tokens side by side, .*\[0, 2\]",
    ),
    "twice": (None, r"decision_span: received '5 at \[0, 4\]'; allowed: tokens of one decision next to each other"),
}


@pytest.mark.parametrize("kind", SPANS)
def test_spans_that_are_none(kind):
    span, words = SPANS[kind]
    arrays = spelt()
    if span is None:
        arrays["decision_mask"] = np.array([[0, 0, 1, 0, 1, 0], [0] * 6])
        arrays["sample_mask"] = np.array([[1, 1, 0, 1, 0, 1], [1] * 6])
        span = np.array([[0, 0, 5, 0, 5, 0], [0] * 6])
    with pytest.raises(InputError, match=words):
        attribute_rollouts("sft", **{**arrays, "decision_span": np.array(span), "reward": np.zeros(2)})


def test_a_trajectory_that_was_cut_off_did_not_stop():
    cut = np.array([0, 0, 0, 1, 0])
    plain, said = (attribute_rollouts("grpo", resamples=5, **run(truncated=x)) for x in (None, cut))
    assert [d["count"] for d in plain.decisions.values()] == [4, 3]
    assert [d["count"] for d in said.decisions.values()] == [3, 4]
    assert (said.rollouts["truncated"], said.rollouts["ended_by_resample"]) == (1, 1)
    assert any("read as STOP: 1. If they were cut off" in note for note in plain.notes)
    assert not any("read as STOP" in note for note in said.notes)
    given = np.where(check(run()).decision_mask, check(run()).decision, 0)
    with pytest.raises(InputError, match=r"decision: received 'STOP = 0 at \[3, 7\]'.*not cut off"):
        attribute_rollouts("grpo", **run(truncated=cut, decision=given))


# Advantages of the trainer.


def test_advantages_of_the_file_take_the_place_of_an_objectives_own():
    """c = rho A/(B T_i) where no clip binds; per token too, and whatever whitens them otherwise stays away."""
    A = np.array([2.0, -1.0, 0.5, 1.5, -3.0])
    arrays = run(advantage=A, reward=None, group=None)
    rho = np.where(SLOTS > 0, np.exp(arrays["logp"] - arrays["old_logp"]), 0.0)
    tokens = (SLOTS > 0).sum(-1, keepdims=True)
    found = attribute_rollouts("grpo", {"clip": 0.5}, resamples=5, **arrays)
    np.testing.assert_allclose(found.coefficients, rho * A[:, None] / tokens / 5, rtol=0, atol=TIGHT)
    assert found.outcome == {"success_from": None, "success_rate": None}
    assert "in place of grpo's own" in found.notes[0]
    by_token = np.where(SLOTS > 0, A[:, None] + np.arange(8), np.nan)
    for name in ("ppo", "reinforce_plus_plus"):
        found = attribute_rollouts(name, {"clip": 0.5}, resamples=5, **{**arrays, "advantage": by_token})
        np.testing.assert_allclose(
            found.coefficients, np.where(SLOTS > 0, rho * by_token, 0.0) / tokens.sum(), rtol=0, atol=TIGHT
        )
    own = attribute_rollouts("reinforce", {"baseline": "none"}, resamples=5, **run(advantage=A))
    np.testing.assert_array_equal(own.coefficients, attribute_rollouts("reinforce", **run()).coefficients)
    assert "an option says otherwise" in own.notes[0]
    with pytest.raises(InputError, match="reward: received 'no such array'; allowed: the array reward: rft does not"):
        attribute_rollouts("rft", **arrays)


def test_an_own_objective_gets_them_by_the_name_of_its_parameter():
    def mine(logp_BxS, traj, *, advantage: Any = None):
        return resolve("grpo", advantage=advantage)(logp_BxS, traj)

    arrays = run(advantage=np.array([2.0, -1.0, 0.5, 1.5, -3.0]))
    own, grpo = (attribute_rollouts(f, resamples=5, **arrays).coefficients for f in (mine, "grpo"))
    np.testing.assert_array_equal(own, grpo)


# Forms of arrays.


def test_forms_of_masks_ids_and_precision():
    """Masks of numbers, prompts by name, bfloat16's rounding, and on-policy said aloud."""
    rounded = run()["logp"]
    rounded[0, 1] = 0.0078
    arrays = run(
        logp=rounded.astype(np.float32),
        sample_mask=(SLOTS == S).astype(np.float32),
        group=np.array(["b", "b", "b", "a", "a"]),
        old_logp=None,
    )
    with pytest.raises(InputError, match=r"logp: received '0.0077.* at \[0, 1\]'.*--logp-tolerance"):
        attribute_rollouts("rloo", **arrays)
    with pytest.raises(InputError, match=r"old_logp: received 'no such array'.*\(--on-policy\)"):
        attribute_rollouts("grpo", logp_tolerance=0.01, **arrays)
    found = attribute_rollouts("grpo", logp_tolerance=0.01, on_policy=True, resamples=5, **arrays)
    assert found.rollouts["groups"] == 2
    assert "old_logp is logp: on-policy, every ratio is 1 and no clip binds." in found.notes
    with pytest.raises(InputError, match="on_policy: received True; allowed: rollouts without old_logp"):
        attribute_rollouts("grpo", on_policy=True, **run())


def test_arrays_without_a_meaning_are_named_and_not_opened(tmp_path):
    path = tmp_path / "run.npz"
    np.savez(path, **tiny(decision_choices=None), rewards_std=np.ones(2), extra=np.array([{"a": 1}], object))
    assert unknown(path) == ["extra", "rewards_std"]
    assert set(read(path)) == set(tiny(decision_choices=None))
    with pytest.raises(InputError, match="decision_choices"):
        printed(path, "sft")
    assert "not read: extra, rewards_std" in printed(path, "sft", decision_choices=2)


# Health.


def test_health_lines_by_hand():
    arrays = spelt()
    arrays["sampler_logp"] = arrays["old_logp"] - np.array([[0.1, 0, 0, 0, 0, 0]])
    arrays["sampler_logp"][1] = arrays["old_logp"][1]
    found = attribute_rollouts("grpo", resamples=5, **arrays)
    ratio = found.health["ratio"]["decision"]
    e = np.exp([0.3, -0.1, 0.3])
    assert (ratio["mean"], ratio["low"], ratio["high"]) == pytest.approx((e.mean(), e.min(), e.max()))
    assert ratio["outside"] == pytest.approx(2 / 3)
    w = np.exp([0.1, 0, 0, 0, 0, 0])
    mismatch = found.health["mismatch"]
    assert mismatch["sample"]["effective"] == pytest.approx(w.sum() ** 2 / 6 / (w**2).sum())
    assert mismatch["decision"]["effective"] == 1
    c = found.coefficients
    net = abs(c[arrays["sample_mask"]].sum()) / abs(c[arrays["sample_mask"]]).sum()
    assert found.health["net_over_gross"]["sample"] == pytest.approx(net)
    lonely = attribute_rollouts("grpo", **run(advantage=np.array([9.0, 0.1, 0, 0, 0.1])))
    assert any("One trajectory holds 9" in note for note in lonely.notes)
    never = attribute_rollouts("sft", **run(truncated=np.ones(5)))
    assert "No STOP was drawn: every decision of the file is RESAMPLE." in never.notes
    bare = attribute_rollouts("sft", **run(decision_mask=np.zeros(SLOTS.shape)))
    assert "No decision in the file: nothing can be said about pi_d." in bare.notes

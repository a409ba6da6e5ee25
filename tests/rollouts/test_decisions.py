"""A rule marks decisions in drawn tokens: which tokens, which kind, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.rollouts.decisions import Rule, contexts, mark
from dsjax.rollouts.format import check
from dsjax.trajectories import RESAMPLE, STOP

pytest.importorskip("tokenizers")

from dsjax.rollouts.text import Tokens

FILES = Path(__file__).parent / "files"
TOKENS = Tokens(FILES)
END = TOKENS.id_of("<|im_end|>", "end")


def rollouts(*texts: str, **more: Any) -> dict[str, Any]:
    """A file of these answers; in a text `~` parts words of a tool, in no mask, from those of the model."""
    rows = []
    for text in texts:
        parts = [TOKENS.encode([part])[0] for part in text.split("~")]
        rows.append([(token, i % 2 == 0) for i, part in enumerate(parts) for token in part])
    width = max(map(len, rows))
    ids, drawn = (
        np.array([[x[i] for x in row] + [fill] * (width - len(row)) for row in rows])
        for i, fill in ((0, 0), (1, False))
    )
    arrays = {"tokens": ids, "sample_mask": drawn, "decision_mask": np.zeros_like(drawn), "reward": np.zeros(len(rows))}
    return {**arrays, "logp": np.where(drawn, -1.0, np.nan), **more}


def spans(arrays: dict[str, Any], rule: Rule, tokens: Tokens | None = TOKENS) -> list[tuple[int, str, int]]:
    """(row, text, kind) of each decision, of a file that the format accepts."""
    found = mark(arrays, rule, tokens)
    data = check(found.arrays)
    assert [(s.row, s.first) for s in found.spans] == [tuple(x) for x in np.argwhere(data.starts)]
    assert [(s.row, s.last) for s in found.spans] == [tuple(x) for x in np.argwhere(data.ends)]
    assert [s.kind for s in found.spans] == data.decision[data.starts].tolist()
    ids = found.layout.tokens(np.asarray(arrays["tokens"]))
    return [(s.row, TOKENS.pieces(ids[s.row, s.first : s.last + 1].tolist())[0], s.kind) for s in found.spans]


R, S = RESAMPLE, STOP
E = "<|im_end|>"


@pytest.mark.parametrize(
    ("texts", "rule", "expected"),
    [
        # The default words, in any case, whole words alone; phrases that touch are one decision.
        (
            [f"It is 4. WAIT, hmm, 5.{E}", f"Await it.{E}"],
            Rule(),
            [(0, "WAIT, hmm", R), (0, E, S), (1, E, S)],
        ),
        # No decision before there is an answer, and none that would stand beside STOP.
        ([f"Hmm, it is 4.{E}", f"It is 4. Wait{E}"], Rule(), [(0, E, S), (1, E, S)]),
        # Text that was cut off ends in no STOP, though it may end in RESAMPLE.
        (["It is 4. Wait", f"It is 5.{E}"], Rule(), [(0, " Wait", R), (1, E, S)]),
        # Nothing that the model did not draw: not inside of the gap, and not over it.
        ([f"It is 4.~wait~ let me~hmm~ check it.{E}"], Rule(), [(0, E, S)]),
        # A match takes every token that it touches, parts of a character too: in bytes that token has no text yet.
        ([f"4 né 5 or ≈ 6{E}"], Rule(resample="é|≈"), [(0, "é", R), (0, "≈", R), (0, E, S)]),
        # Token ids, alone or in a row, and matches of both kinds that overlap are one.
        (
            [f"It is 17, 17 + 25.{E}"],
            Rule(resample=r"\+ 25", resample_ids=[TOKENS.encode([" 17 +"])[0]]),
            [(0, " 17 + 25", R), (0, E, S)],
        ),
        # A delimiter as the end: STOP is from there to the last token, if nothing but blanks is between them.
        (
            [f"It is 4. </answer>  {E}", f"It is </answer> 4.{E}", "It is 4. </answer>"],
            Rule(resample="nothing", stop="</answer>"),
            [(0, f"</answer>  {E}", S), (2, "</answer>", S)],
        ),
        ([f"It is 4.{E}", "It is 42."], Rule(resample="nothing", stop_ids=TOKENS.encode(["."])[0]), [(1, ".", S)]),
    ],
)
def test_which_tokens_are_which_decision(texts, rule, expected):
    assert spans(rollouts(*texts), rule) == expected


def test_what_the_file_says_about_truncation_goes_before_the_rule():
    """A row that is said to be cut off gets no STOP though it ends in the end token; one that is not gets it on any."""
    arrays = rollouts(f"It is 4.{E}", "It is 5.", truncated=np.array([True, False]))
    assert spans(arrays, Rule()) == [(1, ".", S)]
    found = mark(arrays, Rule(), TOKENS)
    np.testing.assert_array_equal(found.arrays["truncated"], arrays["truncated"])
    del arrays["truncated"]
    np.testing.assert_array_equal(mark(arrays, Rule(), TOKENS).arrays["truncated"], [False, True])


def test_rows_of_weight_0_turns_and_packed_rows():
    """STOP stands at the end of a trajectory, not of a row; a row of weight 0 may hold any token."""
    texts = (f"It is 4.{E}", f"Wait, so 5.{E}", f"It is 6.{E}", "garbage")
    arrays = rollouts(*texts, trajectory=np.array([3, 3, 1, 2]), weight=np.array([1.0, 1.0, 1.0, 0.0]))
    arrays["tokens"][3] = 10**6
    assert spans(arrays, Rule()) == [(0, "Wait", R), (0, E, S), (1, E, S)]
    two = rollouts(f"It is 4.{E}It is 5. Wait 6.")
    segments = np.ones_like(two["tokens"])
    segments[0, 5:] = 2
    two |= {"segment_ids": segments, "reward": np.zeros(2)}
    assert spans(two, Rule()) == [(0, E, S), (1, " Wait", R)]
    np.testing.assert_array_equal(mark(two, Rule(), TOKENS).arrays["truncated"], [False, True])


def test_without_a_tokenizer_rules_are_ids():
    arrays = rollouts(f"It is 4. Wait, 5.{E}")
    wait = TOKENS.encode([" Wait"])[0]
    rule = Rule(resample_ids=[wait], stop_ids=[END])
    assert spans({**arrays, "decision_choices": 9}, rule, None) == spans(arrays, rule)
    found = mark(arrays, rule, None)
    assert "decision_choices" not in found.arrays
    assert contexts(found, None)[0]["decision"] == str(wait[0])
    few = mark({name: arrays[name] for name in ("tokens", "sample_mask")}, rule, None)
    assert few.spans == found.spans
    assert mark(arrays, rule, TOKENS).arrays["decision_choices"] == TOKENS.size
    assert mark({**arrays, "decision_choices": 7}, rule, TOKENS).arrays["decision_choices"] == 7


def test_marks_are_all_that_changes_and_can_be_made_again():
    arrays = rollouts(f"It is 4. Wait, 5.{E}", f"It is 17.~a tool~Hmm, 5.{E}", advantage=np.array([1.0, -1.0]))
    first = mark(arrays, Rule(), TOKENS)
    drawn = first.arrays["sample_mask"] | first.arrays["decision_mask"]
    np.testing.assert_array_equal(drawn, arrays["sample_mask"])
    assert not (first.arrays["sample_mask"] & first.arrays["decision_mask"]).any()
    for name in ("tokens", "logp", "reward", "advantage"):
        assert first.arrays[name] is arrays[name]
    again = mark({**first.arrays, "stop_logp": arrays["logp"]}, Rule(), TOKENS)
    assert again.said == ["Marks of the file itself replaced: decision, decision_span, stop_logp."]
    assert again.spans == first.spans
    assert "stop_logp" not in again.arrays
    assert len(mark(first.arrays, Rule(resample="nothing"), TOKENS).spans) == 2


def test_the_preview_is_spread_over_all_and_safe_to_print():
    texts = [f"It is {i}.\n\x1b[31m Wait, {i}.{E}" for i in range(40)]
    found = mark(rollouts(*texts), Rule(), TOKENS)
    shown = contexts(found, TOKENS, 10)
    assert [row["kind"] for row in shown].count("STOP") == 2
    rows = [row["row"] for row in shown if row["kind"] == "RESAMPLE"]
    assert (len(rows), rows[0], rows[-1]) == (8, 0, 39)
    assert shown[0]["before"].endswith(".\\n\\x1b[31m")
    assert all(c.isprintable() for row in shown for c in row["before"] + row["decision"] + row["after"])


@pytest.mark.parametrize(
    ("rule", "tokens", "change", "message"),
    [
        (Rule(resample="("), TOKENS, {}, r"resample: received '\('; allowed: a regular expression \(missing"),
        (Rule(resample="no such words", stop="nor these"), TOKENS, {}, "rule: received .* finds a decision"),
        (Rule(), None, {}, "tokenizer: received None; allowed: .*--resample"),
        (Rule(resample_ids=[[1]], stop="x"), None, {}, "tokenizer: received None; allowed: .*--stop"),
        (Rule(resample_ids=[[1]]), None, {}, "stop-ids: received None; allowed: ids of the tokens that end"),
        (Rule(resample_ids=[[]]), TOKENS, {}, "resample-ids: .* at least one id"),
        (Rule(), TOKENS, {"tokens": None}, "tokens: received 'no such array'"),
        (Rule(), TOKENS, {"tokens": np.full((1, 5), 5000)}, "tokens: received 5000; allowed: ids of .*this model's"),
        (Rule(), TOKENS, {"sample_mask": np.zeros((1, 5))}, "sample_mask . decision_mask: received 'no token'"),
        (Rule(), TOKENS, {"sample_mask": np.zeros((1, 4))}, r"sample_mask.shape: received \(1, 4\)"),
    ],
)
def test_refusals(rule, tokens, change, message):
    with pytest.raises(InputError, match=message):
        mark({**rollouts(f"It is 4.{E}"), **change}, rule, tokens)


def test_a_decoder_that_goes_back_over_earlier_text(tmp_path):
    """The text of `a b` is `c`, which does not begin with that of `a`; every token still has a place, in order."""
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.decoders import DecodeStream

    made: Any = Tokenizer(models.WordLevel({"a": 0, "b": 1, "wait": 2}, unk_token="a"))
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")])
    made.save(str(tmp_path / "tokenizer.json"))
    stream = DecodeStream(skip_special_tokens=False)
    with pytest.raises(Exception, match="prefix"):
        [stream.step(made, i) for i in (0, 1, 2)]
    text, places = Tokens(tmp_path).pieces([0, 1, 2])
    assert text[places[2, 0] : places[2, 1]] == "wait"
    assert (np.diff(places[:, 0]) >= 0).all()


def test_a_tokenizer_that_cannot_be_read(tmp_path, monkeypatch):
    bad = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match=r"tokenizer: .*readable tokenizer.json \(No such file"):
        Tokens(tmp_path)
    bad.write_text('{"model": 1}')
    with pytest.raises(InputError, match=r"tokenizer: .*a tokenizer.json of the tokenizers library"):
        Tokens(bad)
    with pytest.raises(InputError, match="end: received '<eos>'; allowed: a token of"):
        TOKENS.id_of("<eos>", "end")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"tokenizer: .*pip install 'dsjax\[readers\]'"):
        Tokens(FILES)

"""Decisions found in drawn text: a rule marks spans as RESAMPLE and the end of an answer as STOP.

No framework logs which tokens decide. What a model says where it tries again (`Wait`, `Hmm`) and the token with which
it ends are in the text; a rule finds them, and a person looks at what it found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsjax.errors import InputError, require
from dsjax.rollouts.layout import Layout, layout_of
from dsjax.rollouts.reader import Reader
from dsjax.rollouts.text import Tokens
from dsjax.trajectories import RESAMPLE, STOP

_WORD = r"\b(?:wait|hmm|alternatively|let me (?:re-?|double-?)?check)\b"
WORDS = rf"{_WORD}(?:[\s,.…-]*{_WORD})*"  # `Wait, let me check` is one decision
# What an earlier rule, or the trainer, said of decisions.
REPLACED = ("decision", "decision_span", "stop_logp", "round")


@dataclass(frozen=True)
class Rule:
    """Where the model decides. Case does not matter; a match takes all tokens that it touches."""

    resample: str | None = None  # regular expression of the text; `WORDS` if neither this nor ids are given
    resample_ids: Sequence[Sequence[int]] = ()  # or sequences of token ids
    stop: str | None = None  # regular expression of the end of the text
    stop_ids: Sequence[int] = ()  # or ids of the last token; the tokenizer's special tokens if nothing is given


@dataclass(frozen=True)
class Span:
    """One decision: tokens `first` to `last` of a trajectory."""

    row: int
    first: int
    last: int
    kind: int  # STOP or RESAMPLE


@dataclass(frozen=True)
class Found:
    """Rollouts with their decisions marked."""

    arrays: dict[str, Any]
    spans: list[Span]  # in the order of rows and tokens
    layout: Layout  # one trajectory a row, as spans count them
    counts: dict[str, int]  # trajectories, resamples, stops, cut off, left out
    said: list[str]


def mark(arrays: Mapping[str, Any], rule: Rule, tokens: Tokens | None = None) -> Found:
    """Arrays of format 2 with `decision_mask`, `decision`, `decision_span`, `truncated` by the rule.

    RESAMPLE: each match in the drawn text, but at its very start (there is no answer yet) and directly before STOP.
    Matches that touch are one decision. STOP: the end of an answer that was not cut off. An answer counts as cut off if
    `truncated` says so; where the file does not say, if it ends in no stop.

    Args:
      arrays: with `tokens` and masks; others are kept.
      rule: what to look for.
      tokens: the tokenizer; needed for rules about text, and for special tokens as stops.

    Raises:
      InputError: for a rule that cannot be applied, or finds nothing.
    """
    if arrays.get("tokens") is None:
        raise InputError("tokens", "no such array", "token ids of the rollouts, in which decisions are found")
    finder = _Finder(rule, tokens)
    said = [f"Marks of the file itself replaced: {', '.join(n for n in REPLACED if n in arrays)}."]
    said = said if any(name in arrays for name in REPLACED) else []
    left = {name: x for name, x in arrays.items() if name not in REPLACED}
    # Rows of weight 0, turns of one trajectory and packed rows are told apart as for a diagnosis, which needs logp.
    shape = np.shape(arrays["tokens"])
    filled = {"logp": np.zeros(shape), "reward": np.zeros(shape[:1]), "decision_mask": np.zeros(shape), **left}
    reader = Reader({name: filled[name] for name in filled if name in _FOR_LAYOUT})
    masks = [np.asarray(reader.bools(name)) for name in ("sample_mask", "decision_mask")]
    reader.mask = masks[0] | masks[1]
    ids_BxS = reader.ids("tokens")
    assert ids_BxS is not None
    layout = layout_of(reader)
    ids_NxW, drawn_NxW = layout.tokens(ids_BxS), layout.tokens(reader.mask)
    require(bool(drawn_NxW.any()), "sample_mask | decision_mask", "no token", "at least one drawn token")
    if tokens is not None:
        tokens.known(ids_NxW[drawn_NxW])
    given = reader.bools("truncated")
    cut = None if given is None else given[layout.last]

    spans: list[Span] = []
    kinds, numbers, decides = (np.zeros(ids_NxW.shape, kind) for kind in (np.int32, np.int32, bool))
    inferred, dropped = np.zeros(len(ids_NxW), bool), 0
    for row, (ids, drawn) in enumerate(zip(ids_NxW, drawn_NxW, strict=True)):
        slots = np.flatnonzero(drawn)
        if not len(slots):
            continue
        known = None if cut is None else bool(cut[row])
        stop = None if known else finder.stop(ids, slots, known)
        inferred[row] = known is None and stop is None
        found = list(_merged(finder.resamples(ids, slots)))
        kept = [(a, b) for a, b in found if a > slots[0] and (stop is None or b + 1 < stop)]
        dropped += len(found) - len(kept)
        ends = [] if stop is None else [(stop, int(slots[-1]))]
        for number, (a, b) in enumerate([*kept, *ends], 1):
            kind = STOP if number > len(kept) else RESAMPLE
            spans.append(Span(row, a, b, kind))
            at = slice(a, b + 1)
            decides[row, at], kinds[row, at], numbers[row, at] = drawn[at], kind, number
    decision = layout.back(decides)
    out = {
        **left,
        "sample_mask": reader.mask & ~decision,
        "decision_mask": decision,
        "decision": layout.back(kinds),
        "decision_span": layout.back(np.where(decides, numbers, 0)),
    }
    if cut is None:
        out["truncated"] = np.zeros(reader.entries, bool)
        out["truncated"][layout.last] = inferred
    if tokens is not None:
        for name in ("decision_choices", "vocabulary"):
            out.setdefault(name, np.int64(tokens.size))
    counts = {
        "trajectories": len(ids_NxW),
        "resamples": sum(span.kind == RESAMPLE for span in spans),
        "with_resample": len({span.row for span in spans if span.kind == RESAMPLE}),
        "stops": sum(span.kind == STOP for span in spans),
        "cut_off": int((inferred if cut is None else cut).sum()),
        "left_out": dropped,
    }
    require(bool(spans), "rule", finder.words(), "one that finds a decision in these rollouts")
    return Found(out, spans, layout, counts, said)


_FOR_LAYOUT = (
    *("logp", "reward", "tokens", "sample_mask", "decision_mask", "truncated", "trajectory", "segment_ids"),
    *("weight", "group"),
)


def _merged(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that overlap or touch, as one."""
    last: tuple[int, int] | None = None
    for span in sorted(spans):
        if last is not None and span[0] <= last[1] + 1:
            last = last[0], max(last[1], span[1])
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


class _Finder:
    """A checked rule."""

    def __init__(self, rule: Rule, tokens: Tokens | None):
        text = WORDS if rule.resample is None and not rule.resample_ids else rule.resample
        self.pattern, self.end = _compiled("resample", text), _compiled("stop", rule.stop)
        self.sequences = [np.asarray(ids) for ids in rule.resample_ids]
        require(all(len(ids) for ids in self.sequences), "resample-ids", rule.resample_ids, "at least one id in each")
        self.stop_ids = np.asarray(rule.stop_ids, np.int64)
        self.tokens = tokens
        for field, pattern in (("resample", self.pattern), ("stop", self.end)):
            if pattern is not None and tokens is None:
                raise InputError("tokenizer", None, f"a tokenizer.json for the text of --{field}, or --{field}-ids")

    def words(self) -> str:
        """The rule as a person reads it."""
        parts = [p.pattern for p in (self.pattern, self.end) if p is not None]
        return "; ".join([*parts, *(",".join(map(str, ids)) for ids in self.sequences)])

    def resamples(self, ids: np.ndarray, slots: np.ndarray) -> Iterator[tuple[int, int]]:
        """(first, last) slots of matches; none reaches over a gap of slots that were not drawn."""
        for run in np.split(slots, np.flatnonzero(np.diff(slots) > 1) + 1):
            if self.pattern is not None:
                yield from _matches(self.pattern, *self._text(ids[run]), int(run[0]))
            for sequence in self.sequences:
                n = len(sequence)
                if n <= len(run):
                    windows = np.lib.stride_tricks.sliding_window_view(ids[run], n)
                    yield from (
                        (int(run[i]), int(run[i]) + n - 1) for i in np.flatnonzero((windows == sequence).all(-1))
                    )

    def stop(self, ids: np.ndarray, slots: np.ndarray, cut: bool | None) -> int | None:
        """The first slot of STOP, which ends at the last drawn slot; None if the answer does not end in one."""
        last = int(slots[-1])
        if self.end is not None:
            run = np.split(slots, np.flatnonzero(np.diff(slots) > 1) + 1)[-1]
            text, places = self._text(ids[run])
            for a, b in reversed(list(_matches(self.end, text, places, int(run[0])))):
                rest = range(b + 1 - int(run[0]), len(run))
                return a if all(self._blank(int(ids[run[i]]), text, places[i]) for i in rest) else None
            return None
        if len(self.stop_ids):
            return last if ids[last] in self.stop_ids else None
        if cut is False:
            return last
        if self.tokens is None:
            raise InputError("stop-ids", None, "ids of the tokens that end an answer: the file does not say where")
        return last if ids[last] in self.tokens.special else None

    def _text(self, ids: np.ndarray) -> tuple[str, np.ndarray]:
        assert self.tokens is not None
        return self.tokens.pieces(ids.tolist())

    def _blank(self, token: int, text: str, place: np.ndarray) -> bool:
        assert self.tokens is not None
        return token in self.tokens.special or not text[place[0] : place[1]].strip()


def _compiled(field: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(field, pattern, f"a regular expression ({error})") from error


def _matches(pattern: re.Pattern[str], text: str, places: np.ndarray, start: int) -> Iterator[tuple[int, int]]:
    """(first, last) slots of the tokens that each match touches."""
    for match in pattern.finditer(text):
        touched = np.flatnonzero((places[:, 0] < match.end()) & (places[:, 1] > match.start()))
        if len(touched):
            yield start + int(touched[0]), start + int(touched[-1])


def contexts(found: Found, tokens: Tokens | None, number: int = 10, around: int = 12) -> list[dict[str, Any]]:
    """A few of the decisions, spread over all, with the drawn text around each; printable characters alone.

    Returns:
      rows `{"row", "token", "kind", "before", "decision", "after"}`; text is ids where there is no tokenizer.
    """
    by_kind = [[s for s in found.spans if s.kind == kind] for kind in (RESAMPLE, STOP)]
    stops = min(len(by_kind[1]), max(number // 5, number - len(by_kind[0])))
    shown = [*_spread(by_kind[0], number - stops), *_spread(by_kind[1], stops)]
    ids_NxW = found.layout.tokens(np.asarray(found.arrays["tokens"]))
    drawn_NxW = found.layout.tokens(found.arrays["sample_mask"] | found.arrays["decision_mask"])
    out = []
    for span in sorted(shown, key=lambda s: (s.row, s.first)):
        slots = np.flatnonzero(drawn_NxW[span.row])
        before, after = slots[slots < span.first][-around:], slots[slots > span.last][:around]
        texts = (_shown(ids_NxW[span.row, at], tokens) for at in (before, slice(span.first, span.last + 1), after))
        place = int(found.layout.place[span.row, span.first])
        row, slot = divmod(place, found.layout.shape[1])
        named = dict(zip(("before", "decision", "after"), texts, strict=True))
        out.append({"row": row, "token": slot, "kind": "STOP" if span.kind == STOP else "RESAMPLE", **named})
    return out


def _spread(items: Sequence[Span], number: int) -> list[Span]:
    at = np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)) if items else []
    return [items[i] for i in at]


def _shown(ids: np.ndarray, tokens: Tokens | None) -> str:
    if tokens is None:
        return " ".join(map(str, ids.tolist()))
    text = tokens.pieces(ids.tolist())[0]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

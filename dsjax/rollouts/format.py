"""Rollouts of any framework as NumPy arrays: the file format (.npz), its checks, and the map to `Trajectories`.

Conventions: B rows, S token slots, tokens in the order in which they were drawn; a row is a trajectory, unless the file
says otherwise (`trajectory`, `segment_ids`). A slot in neither mask (prompt, padding, text of the environment) may hold
anything, NaN included. Format: docs/attribute.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import InputError, require
from dsjax.io import array_names, read_arrays
from dsjax.numerics import divide
from dsjax.rollouts.arrays import ARRAYS, OPTIONAL, REQUIRED
from dsjax.rollouts.layout import Layout, layout_of
from dsjax.rollouts.reader import Reader
from dsjax.trajectories import RESAMPLE, STOP, Trajectories

__all__ = ["ARRAYS", "OPTIONAL", "REQUIRED", "Rollouts", "check", "read", "square_bounds", "unknown"]

CHOICES = (
    "2 where decisions are drawn from STOP and RESAMPLE alone, with logp renormalised to the two; the size of the "
    "vocabulary where they are its tokens, as in most language models (--decision-choices). Until format 2 a file "
    "without it was read as two-way, which gave the others up to 2 times their second moment and the wrong push on STOP"
)


@dataclass(frozen=True)
class Rollouts:
    """Checked arrays, float64, zero in slots that are in neither mask, one trajectory a row; built by `check`."""

    logp: np.ndarray  # f[B, S] nats
    sample_mask: np.ndarray  # bool[B, S]
    decision_mask: np.ndarray  # bool[B, S]
    starts: np.ndarray  # bool[B, S] the first token of each decision
    ends: np.ndarray  # bool[B, S] the last token of each decision
    reward: np.ndarray | None  # f[B]; None where only advantages are known
    weight: np.ndarray  # f[B] > 0, sums to 1
    group: np.ndarray  # i32[B] 0..num_groups-1; a group of its own for every trajectory if none was given
    round: np.ndarray  # i32[B, S]
    decision: np.ndarray  # i32[B, S] STOP or RESAMPLE at decision tokens
    correct: np.ndarray | None  # bool[B, S] at `starts`: the answer before it
    truncated: np.ndarray  # bool[B]
    advantage: np.ndarray | None  # f[B] or f[B, S]
    old_logp: np.ndarray | None
    ref_logp: np.ndarray | None
    sampler_logp: np.ndarray | None
    stop_logp: np.ndarray | None  # at `starts`
    values: np.ndarray | None
    tokens: np.ndarray | None
    prompt: np.ndarray | None
    score_norm: np.ndarray | None
    vocabulary: int | None
    decision_choices: int | None
    gradient_sample: np.ndarray | None  # f[N, P]
    gradient_decision: np.ndarray | None  # f[N, P]
    given: tuple[str, ...]  # names of the arrays received
    layout: Layout  # where the slots stand in the file

    @property
    def mask(self) -> np.ndarray:
        """bool[B, S]: tokens of either component."""
        return self.sample_mask | self.decision_mask

    @property
    def num_groups(self) -> int:
        """Number of groups, of one trajectory each if no `group` was given."""
        return int(self.group.max()) + 1

    def of_decision(self, x_BxS: np.ndarray) -> np.ndarray:
        """f[B, S]: the sum of x over the tokens of each decision, at its first token; 0 elsewhere."""
        B, S = x_BxS.shape
        number = np.cumsum(self.starts.ravel()) - 1  # decisions of all rows, one after the other
        sums = np.bincount(number[self.decision_mask.ravel()], x_BxS[self.decision_mask], int(self.starts.sum()))
        out = np.zeros(B * S)
        out[self.starts.ravel()] = sums
        return out.reshape(B, S)

    def mean_of_decision(self, x_BxS: np.ndarray) -> np.ndarray:
        """f[B, S]: the mean of x over the tokens of each decision, at its first token; 0 elsewhere."""
        return divide(self.of_decision(x_BxS), self.of_decision(np.ones_like(x_BxS)))

    def trajectories(self) -> Trajectories:
        """The pytree that objectives take: samples (`exact=False`) in float64. Call it in a `jax.enable_x64` scope.

        Without returns they are 0: for objectives that get advantages.
        """
        B, S = self.logp.shape
        tokens = np.zeros((B, S), np.int32) if self.tokens is None else self.tokens

        def ints(x: Any) -> jax.Array:
            return jnp.asarray(np.asarray(x).astype(np.int32))  # by NumPy: nothing to compile

        floats = {name: getattr(self, name) for name in ("old_logp", "ref_logp", "sampler_logp", "values")}
        return Trajectories.create(
            tokens=ints(np.where(self.decision_mask, self.decision, tokens)),
            prompt=ints(np.zeros((B, 1)) if self.prompt is None else self.prompt),
            sample_mask=jnp.asarray(self.sample_mask),
            decision_mask=jnp.asarray(self.decision_mask),
            round=ints(self.round),
            reward=jnp.asarray(np.zeros(B) if self.reward is None else self.reward),
            weight=jnp.asarray(self.weight),
            group=ints(self.group),
            num_groups=self.num_groups,
            **{name: None if x is None else jnp.asarray(x) for name, x in floats.items()},
        )


def read(path: str | Path) -> dict[str, Any]:
    """The arrays of an .npz file that have a meaning here, with no check of their content; others are not opened.

    Raises:
      InputError: for a file that cannot be read, is no .npz file, or holds pickled objects under these names.
    """
    return read_arrays(Path(path), "rollouts file", ARRAYS)


def unknown(path: str | Path) -> list[str]:
    """Names of the arrays of an .npz file that `read` leaves alone; errors as for `read`."""
    return sorted(set(array_names(Path(path), "rollouts file")) - set(ARRAYS))


def check(arrays: Mapping[str, Any], logp_tolerance: float | None = None) -> Rollouts:
    """Check arrays by name (see `ARRAYS`) and bring them into one form.

    Args:
      arrays: by name.
      logp_tolerance: log-probabilities up to this are read as 0, where the precision of the array allows less.

    Raises:
      InputError: naming the array, what it received and what is allowed.
    """
    reader = Reader(arrays, logp_tolerance)
    masks = [reader.bools(name) for name in ("sample_mask", "decision_mask")]
    sample, decision = (np.asarray(mask) for mask in masks)
    both = sample & decision
    tokens = f"{int(both.sum())} tokens of both, first at {np.argwhere(both)[0].tolist()}" if both.any() else None
    require(not both.any(), "sample_mask & decision_mask", tokens, "disjoint masks")
    reader.mask = sample | decision
    layout = layout_of(reader)
    require(bool(reader.mask.any()), "sample_mask | decision_mask", "no token", "at least one drawn token")

    def per_token(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else layout.tokens(x)

    def per_entry(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else x[layout.entry]

    sample, decision = layout.tokens(sample), layout.tokens(decision)
    starts, ends = _spans(reader, layout, decision, sample | decision)
    correct, truncated = reader.bools("correct"), reader.bools("truncated")
    cut = np.zeros(len(sample), bool) if truncated is None else truncated[layout.last]
    weight, group = per_entry(reader.floats("weight")), per_entry(reader.take("group"))
    weight = np.ones(len(sample)) if weight is None else weight
    label = np.arange(len(sample)) if group is None else np.unique(group, return_inverse=True)[1]
    logp, old_logp, ref_logp, sampler_logp = (
        per_token(reader.log_prob(name)) for name in ("logp", "old_logp", "ref_logp", "sampler_logp")
    )
    assert logp is not None
    stop_logp = per_token(reader.log_prob("stop_logp", layout.back(starts)))
    vocabulary, choices = reader.count("vocabulary"), reader.count("decision_choices")
    known = choices is not None or {"stop_logp", "score_norm"} <= set(reader.arrays)
    require(known or not decision.any(), "decision_choices", "no such array", CHOICES)
    kinds, gradients = _decisions(reader, layout, decision, ends, cut), _gradients(reader)
    if stop_logp is not None:
        _check_stop(reader, layout, logp, stop_logp, starts, ends, kinds)
    return Rollouts(
        logp=logp,
        sample_mask=sample,
        decision_mask=decision,
        starts=starts,
        ends=ends,
        reward=per_entry(reader.floats("reward")),
        weight=weight / weight.sum(),
        group=label.astype(np.int32),
        round=_rounds(reader, layout, sample | decision, ends),
        decision=kinds,
        correct=per_token(correct),
        truncated=cut,
        advantage=_advantage(reader, layout),
        old_logp=old_logp,
        ref_logp=ref_logp,
        sampler_logp=sampler_logp,
        stop_logp=stop_logp,
        values=per_token(reader.floats("values")),
        tokens=per_token(reader.ids("tokens")),
        prompt=per_entry(reader.ids("prompt")),
        score_norm=_score_norm(reader, layout, logp, ((sample, vocabulary), (decision, choices))),
        vocabulary=vocabulary,
        decision_choices=choices,
        gradient_sample=gradients[0],
        gradient_decision=gradients[1],
        given=tuple(name for name in ARRAYS if name in reader.arrays),
        layout=layout,
    )


def _spans(reader: Reader, layout: Layout, decides: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool[B, S], bool[B, S]): the first and the last token of each decision; one token each unless given."""
    given = reader.ids("decision_span")
    beside = decides[:, 1:] & decides[:, :-1]
    if given is not None:
        span = layout.tokens(given)
        # By drawn tokens: a span may go on behind a slot that is in no mask.
        row, slot = np.nonzero(drawn)
        after = np.r_[row[1:] == row[:-1], False]  # the next drawn token is of the same row
        on = decides[row, slot]
        same = np.zeros(len(row), bool)
        same[:-1] = after[:-1] & on[:-1] & on[1:] & (span[row, slot][1:] == span[row, slot][:-1])
        ends, starts = np.zeros_like(decides), np.zeros_like(decides)
        ends[row, slot], starts[row, slot] = on & ~same, on & ~np.r_[False, same[:-1]]
        at = np.argwhere(starts)
        again = np.zeros_like(starts)
        seen = np.stack([at[:, 0], span[starts]], axis=1)
        again[tuple(np.delete(at, np.unique(seen, axis=0, return_index=True)[1], axis=0).T)] = True
        layout.refuse(
            again, "decision_span", span, "tokens of one decision next to each other, and another id for another"
        )
        beside = ends[:, :-1] & starts[:, 1:]
    else:
        starts = ends = decides
    two = np.pad(beside, ((0, 0), (0, 1)))
    allowed = "an answer between two decisions; if one is spelt with several tokens, say so with decision_span"
    if two.any():
        place = f"two decision tokens side by side, first at {np.argwhere(layout.back(two))[0].tolist()}"
        require(False, "decision_mask", place, allowed)
    return starts, ends


def _rounds(reader: Reader, layout: Layout, drawn: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """i32[B, S]: the number of decisions before the token, unless the file says otherwise."""
    S = drawn.shape[1]
    given = reader.ids("round")
    if given is None:
        return (np.cumsum(ends, axis=1) - ends).astype(np.int32)
    given = layout.tokens(given)
    layout.refuse(drawn & ((given < 0) | (given >= S)), "round", given, f"0..{S - 1}")
    # The largest round so far: it must never exceed that of a drawn token.
    highest = np.maximum.accumulate(np.where(drawn, given, 0), axis=1)
    layout.refuse(drawn & (given < highest), "round", given, "rounds that never go back along a row")
    # A round is over with its decision: later tokens belong to later rounds.
    closed = np.maximum.accumulate(np.where(ends, given, -1), axis=1)
    before = np.concatenate([np.full((len(closed), 1), -1), closed[:, :-1]], axis=1)
    layout.refuse(drawn & (given <= before), "round", given, "a new round after every decision")
    return np.where(drawn, given, highest).astype(np.int32)


def _decisions(reader: Reader, layout: Layout, decides: np.ndarray, ends: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """i32[B, S]: STOP for a decision that is the last drawn token of its trajectory, RESAMPLE for others, unless given.

    Of a trajectory that was cut off the last decision is RESAMPLE too.
    """
    drawn = layout.tokens(reader.mask)
    S = drawn.shape[1]
    end = np.minimum.accumulate(np.where(ends, np.arange(S), S - 1)[:, ::-1], axis=1)[:, ::-1]  # of the token's span
    drawn_after = np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1] - drawn > 0
    goes_on = np.take_along_axis(drawn_after, end, axis=1) | cut[:, None]
    given = reader.ids("decision")
    if given is None:
        return np.where(goes_on, RESAMPLE, STOP).astype(np.int32)
    given = layout.tokens(given)
    allowed = f"{STOP} (STOP) or {RESAMPLE} (RESAMPLE) at every decision token"
    layout.refuse(decides & (given != STOP) & (given != RESAMPLE), "decision", given, allowed)
    mixed = decides & (given != np.take_along_axis(given, end, axis=1))
    layout.refuse(mixed, "decision", given, "the same at all tokens of a decision")
    allowed = "STOP only at the last drawn token of a trajectory that was not cut off"
    layout.refuse(decides & (given == STOP) & goes_on, "decision", given, allowed, "STOP = ")
    return np.where(decides, given, STOP).astype(np.int32)


def _advantage(reader: Reader, layout: Layout) -> np.ndarray | None:
    """f[B], or f[B, S] where it is by token or differs between rows of one trajectory."""
    x = reader.floats("advantage")
    if x is None:
        return None
    if x.ndim == 2:
        return layout.tokens(x)
    by_slot = np.where(layout.place >= 0, x[layout.entry_of_slot], 0.0)
    whole = x[layout.entry]
    return whole if bool(((by_slot == whole[:, None]) | (layout.place < 0)).all()) else by_slot


def _check_stop(
    reader: Reader,
    layout: Layout,
    logp: np.ndarray,
    stop_logp: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    kinds: np.ndarray,
) -> None:
    """p(STOP) is at least that of a drawn STOP, and with that of a drawn RESAMPLE at most 1."""
    slack = max(reader.tolerance("logp"), reader.tolerance("stop_logp"))
    p, p_stop, single = np.exp(logp), np.exp(stop_logp), starts & ends
    low = single & (kinds == STOP) & (p_stop < p - slack)
    layout.refuse(low, "stop_logp", stop_logp, "at least the log-probability of a drawn STOP")
    high = starts & (kinds == RESAMPLE) & (p_stop + p > 1 + slack)
    layout.refuse(high, "stop_logp", stop_logp, "p(STOP) of at most 1 - p of a drawn RESAMPLE")


def square_bounds(logp: np.ndarray, choices: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound on the squared score norm |e_v - pi|^2 of a softmax draw, from p = pi_v alone.

    It is (1 - p)^2 + sum_{u != v} pi_u^2. The other V - 1 choices share 1 - p: the sum is smallest,
    (1 - p)^2/(V - 1), if they do so evenly and largest, (1 - p)^2, if one has it all. V = 2: both are 2 (1 - p)^2.

    Args:
      logp: log p, nats.
      choices: V; None if unknown, where the lower bound is its limit for V -> infinity.
    """
    rest = np.expm1(logp) ** 2  # (1 - p)^2, accurate for p near 1
    return rest * (1.0 if choices is None else 1.0 + 1.0 / (choices - 1)), 2.0 * rest


def _score_norm(
    reader: Reader, layout: Layout, logp: np.ndarray, parts: tuple[tuple[np.ndarray, int | None], ...]
) -> np.ndarray | None:
    """f[B, S], within its bounds; `parts` are the (mask, choices) of both components."""
    x = reader.floats("score_norm")
    if x is None:
        return None
    x = layout.tokens(x)
    # The root of 1 - 2 p + sum pi^2: where p is near 1 the terms cancel and leave an error of sqrt(eps).
    slack = 4 * max(reader.eps("logp"), reader.eps("score_norm")) ** 0.5
    for mask, choices in parts:
        low, high = (bound**0.5 for bound in square_bounds(logp, choices))
        allowed = "between (1 - p) sqrt(1 + 1/(V-1)) and (1 - p) sqrt(2), p = exp(logp): the norm in the token's logits"
        layout.refuse(mask & ((x < low - slack) | (x > high + slack)), "score_norm", x, allowed)
    return x


def _gradients(reader: Reader) -> tuple[np.ndarray | None, np.ndarray | None]:
    names = ("gradient_sample", "gradient_decision")
    if not any(name in reader.arrays for name in names):
        return None, None
    for name in names:
        if name not in reader.arrays:
            raise InputError(name, "no such array", "both gradient_sample and gradient_decision, or neither")
    shape = reader.arrays[names[0]].shape
    allowed = "[N, P], N >= 2 estimates"
    require(len(shape) == 2 and shape[0] >= 2 and shape[1] > 0, "gradient_sample.shape", shape, allowed)
    reader.axes |= dict(zip("NP", shape, strict=True))
    return reader.floats(names[0]), reader.floats(names[1])

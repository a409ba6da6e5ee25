"""Rollouts of any framework as NumPy arrays: the file format (.npz), its checks, and the map to `Trajectories`.

Conventions: B trajectories, S token slots, one trajectory a row, tokens in the order in which they were drawn. A slot
in neither mask (prompt, padding, text of the environment) may hold anything, NaN included. Format: docs/attribute.md.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dsjax.errors import InputError, require
from dsjax.trajectories import RESAMPLE, STOP, Trajectories

REQUIRED = {
    "logp": "f[B, S] log-probability of each drawn token under the present policy, nats",
    "sample_mask": "bool[B, S] tokens that belong to an answer",
    "decision_mask": "bool[B, S] tokens that decide STOP or RESAMPLE, one a decision",
    "reward": "f[B] return of the trajectory",
}
OPTIONAL = {
    "old_logp": "f[B, S] log-probability under the policy that drew the tokens, nats",
    "ref_logp": "f[B, S] log-probability under the reference policy, nats",
    "values": "f[B, S] a critic's estimate of the return before the token",
    "group": "i[B] which trajectories share a prompt; any integers",
    "weight": "f[B] relative weight of the trajectory, >= 0; equal weights without it",
    "round": "i[B, S] round of the token, 0-based; without it a round ends at its decision",
    "decision": "i[B, S] 0 = STOP, 1 = RESAMPLE at decision tokens; without it the last drawn token is STOP",
    "tokens": "i[B, S] token ids, for your own objective",
    "prompt": "i[B, P] prompt token ids, for your own objective",
    "score_norm": "f[B, S] Euclidean norm of the token's score in its own logits, sqrt(1 - 2 p + sum_u pi_u^2)",
    "vocabulary": "i[] choices V of the softmax of a sampling token",
    "decision_choices": "i[] choices of the softmax of a decision token; 2 without it",
    "gradient_sample": "f[N, P] N independent estimates of the sampler's part of your gradient",
    "gradient_decision": "f[N, P] N independent estimates of the decider's part of your gradient",
}
ARRAYS = {**REQUIRED, **OPTIONAL}


@dataclass(frozen=True)
class Rollouts:
    """Checked arrays, float64, zero in slots that are in neither mask; built by `check`."""

    logp: np.ndarray  # f[B, S] nats
    sample_mask: np.ndarray  # bool[B, S]
    decision_mask: np.ndarray  # bool[B, S]
    reward: np.ndarray  # f[B]
    weight: np.ndarray  # f[B] sums to 1
    group: np.ndarray  # i32[B] 0..num_groups-1; a group of its own for every trajectory if none was given
    round: np.ndarray  # i32[B, S]
    decision: np.ndarray  # i32[B, S] STOP or RESAMPLE at decision tokens
    old_logp: np.ndarray | None
    ref_logp: np.ndarray | None
    values: np.ndarray | None
    tokens: np.ndarray | None
    prompt: np.ndarray | None
    score_norm: np.ndarray | None
    vocabulary: int | None
    decision_choices: int
    gradient_sample: np.ndarray | None  # f[N, P]
    gradient_decision: np.ndarray | None  # f[N, P]
    given: tuple[str, ...]  # names of the arrays received

    @property
    def mask(self) -> np.ndarray:
        """bool[B, S]: tokens of either component."""
        return self.sample_mask | self.decision_mask

    @property
    def num_groups(self) -> int:
        """Number of groups, of one trajectory each if no `group` was given."""
        return int(self.group.max()) + 1

    def trajectories(self) -> Trajectories:
        """The pytree that objectives take: samples (`exact=False`) in float64. Call it in a `jax.enable_x64` scope."""
        B, S = self.logp.shape
        tokens = np.zeros((B, S), np.int32) if self.tokens is None else self.tokens
        floats = {name: getattr(self, name) for name in ("old_logp", "ref_logp", "values")}
        return Trajectories.create(
            tokens=jnp.asarray(np.where(self.decision_mask, self.decision, tokens), jnp.int32),
            prompt=jnp.asarray(np.zeros((B, 1)) if self.prompt is None else self.prompt, jnp.int32),
            sample_mask=jnp.asarray(self.sample_mask),
            decision_mask=jnp.asarray(self.decision_mask),
            round=jnp.asarray(self.round, jnp.int32),
            reward=jnp.asarray(self.reward),
            weight=jnp.asarray(self.weight),
            group=jnp.asarray(self.group, jnp.int32),
            num_groups=self.num_groups,
            **{name: None if x is None else jnp.asarray(x) for name, x in floats.items()},
        )


def read(path: str | Path) -> dict[str, Any]:
    """The arrays of an .npz file, with no check of their content but the names.

    Raises:
      InputError: for a file that cannot be read, is no .npz file, holds pickled objects, or has unknown arrays.
    """
    broken = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)
    try:
        # Opened here, not by NumPy, which leaves the file open where it turns out to be no archive.
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError("rollouts file", str(path), "an .npz file, as numpy.savez writes it")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                _require_known(archive.files)
                return {name: _member(archive, name, path) for name in archive.files}
    except InputError:
        raise
    except broken as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError("rollouts file", str(path), f"a readable .npz file ({reason})") from error


def _member(archive: Any, name: str, path: str | Path) -> np.ndarray:
    try:
        x = archive[name]
    except ValueError as error:
        allowed = f"plain numbers, stored without pickle ({error})"
        raise InputError(name, f"an array of {path} that cannot be read", allowed) from error
    require(isinstance(x, np.ndarray), name, type(x).__name__, "an array, as numpy.savez writes it")
    return x


def _require_known(names: Any) -> None:
    for name in names:
        require(name in ARRAYS, "array", name, ARRAYS)


def _where(bad: np.ndarray, x: np.ndarray) -> str:
    """`nan at [3, 17] (and 5 more)`."""
    places = np.argwhere(bad)
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"{x[tuple(places[0])]} at {places[0].tolist()}{more}"


def _refuse(bad: np.ndarray, name: str, x: np.ndarray, allowed: str, what: str = "") -> None:
    """Raise `InputError` that names the first bad entry of an array."""
    if bad.any():
        raise InputError(name, what + _where(bad, x), allowed)


class _Reader:
    """Takes the arrays one by one, with dtype and shape as `ARRAYS` says, and the checks that all of them share."""

    def __init__(self, arrays: Mapping[str, Any]):
        _require_known(arrays)
        for name in REQUIRED:
            require(arrays.get(name) is not None, name, "no such array", REQUIRED[name])
        self.arrays = {name: np.asarray(x) for name, x in arrays.items() if x is not None}
        logp = self.arrays["logp"]
        require(logp.ndim == 2 and logp.size > 0, "logp.shape", logp.shape, "[B, S], at least [1, 1]")
        self.shape = (int(logp.shape[0]), int(logp.shape[1]))
        self.axes = dict(zip("BS", self.shape, strict=True))  # lengths that are known; others are free
        self.mask = np.ones(self.shape, bool)

    def take(self, name: str) -> np.ndarray | None:
        """The array as it is; None if it was not given."""
        x = self.arrays.get(name)
        if x is None:
            return None
        kind, _, axes = ARRAYS[name].partition("]")[0].partition("[")
        expected = [self.axes.get(axis, axis) for axis in axes.split(", ") if axis]
        fits = x.ndim == len(expected) and all(n in (m, str(n)) for n, m in zip(expected, x.shape, strict=True))
        shape = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
        require(fits, f"{name}.shape", x.shape, f"{shape}: {ARRAYS[name]}, and logp is {self.shape}")
        integer = np.issubdtype(x.dtype, np.integer)
        if kind == "bool":
            whole = integer and bool(((x == 0) | (x == 1)).all())
            require(x.dtype == bool or whole, name, f"dtype {x.dtype}", "bool, or integers 0 and 1")
        else:
            fits = integer or (kind == "f" and np.issubdtype(x.dtype, np.floating))
            words = {"f": "floating", "i": "integer"}[kind]
            require(bool(fits), f"{name}.dtype", str(x.dtype), f"a {words} dtype: {ARRAYS[name]}")
        return x

    def floats(self, name: str) -> np.ndarray | None:
        """float64; finite, for an array per token where one was drawn, and 0 elsewhere."""
        x = self.take(name)
        if x is None:
            return None
        per_token = ARRAYS[name].startswith("f[B, S]")
        counts = self.mask if per_token else np.ones(x.shape, bool)
        words = "finite at every token of a mask" if per_token else "finite numbers"
        _refuse(counts & ~np.isfinite(x), name, x, words)
        return np.where(counts, x, 0.0).astype(np.float64)

    def log_prob(self, name: str) -> np.ndarray | None:
        """As `floats`, <= 0. Rounding in the array's own precision, up to 64 eps, is read as log 1 = 0."""
        x = self.floats(name)
        if x is None:
            return None
        # A log-softmax is a difference of two logits of some tens, each with a relative error of eps.
        _refuse(x > 64 * self.eps(name), name, x, "log-probabilities in nats, <= 0")
        return np.minimum(x, 0.0)

    def eps(self, name: str) -> float:
        dtype = self.arrays[name].dtype
        return float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0

    def ids(self, name: str) -> np.ndarray | None:
        x = self.take(name)
        if x is None:
            return None
        limit = np.iinfo(np.int32)
        _refuse((x < limit.min) | (x > limit.max), name, x, "integers of 32 bits")
        return x.astype(np.int32)

    def count(self, name: str) -> int | None:
        x = self.take(name)
        require(x is None or int(x) >= 2, name, x if x is None else int(x), "at least 2 choices")
        return None if x is None else int(x)


def check(arrays: Mapping[str, Any]) -> Rollouts:
    """Check arrays by name (see `ARRAYS`) and bring them into one form.

    Raises:
      InputError: naming the array, what it received and what is allowed.
    """
    reader = _Reader(arrays)
    sample, decision = (np.asarray(reader.take(name), bool) for name in ("sample_mask", "decision_mask"))
    both = sample & decision
    tokens = f"{int(both.sum())} tokens of both, first at {np.argwhere(both)[0].tolist()}" if both.any() else None
    require(not both.any(), "sample_mask & decision_mask", tokens, "disjoint masks")
    reader.mask = sample | decision
    require(bool(reader.mask.any()), "sample_mask | decision_mask", "no token", "at least one drawn token")
    beside = decision[:, :-1] & decision[:, 1:]
    place = f"two decision tokens side by side, first at {np.argwhere(beside)[0].tolist()}" if beside.any() else None
    allowed = "one token a decision (if it is spelt with several, keep one slot with the sum of their log-probs)"
    require(not beside.any(), "decision_mask", place, allowed)

    reward, weight = reader.floats("reward"), reader.floats("weight")
    if weight is None:
        weight = np.ones(len(sample))
    require(bool((weight >= 0).all() and weight.sum() > 0), "weight", float(weight.min()), ">= 0, not all of them 0")
    logp, old_logp, ref_logp = (reader.log_prob(name) for name in ("logp", "old_logp", "ref_logp"))
    assert logp is not None
    assert reward is not None
    group = reader.take("group")
    label = np.arange(len(sample)) if group is None else np.unique(group, return_inverse=True)[1]
    prompt, gradients = reader.ids("prompt"), _gradients(reader)
    vocabulary, choices = reader.count("vocabulary"), reader.count("decision_choices") or 2
    return Rollouts(
        logp=logp,
        sample_mask=sample,
        decision_mask=decision,
        reward=reward,
        weight=weight / weight.sum(),
        group=label.astype(np.int32),
        round=_rounds(reader, decision),
        decision=_decisions(reader, decision),
        old_logp=old_logp,
        ref_logp=ref_logp,
        values=reader.floats("values"),
        tokens=reader.ids("tokens"),
        prompt=prompt,
        score_norm=_score_norm(reader, logp, ((sample, vocabulary), (decision, choices))),
        vocabulary=vocabulary,
        decision_choices=choices,
        gradient_sample=gradients[0],
        gradient_decision=gradients[1],
        given=tuple(name for name in ARRAYS if name in reader.arrays),
    )


def _rounds(reader: _Reader, decision_mask: np.ndarray) -> np.ndarray:
    """i32[B, S]: the number of decisions before the token, unless the file says otherwise."""
    S = decision_mask.shape[1]
    given = reader.ids("round")
    if given is None:
        return (np.cumsum(decision_mask, axis=1) - decision_mask).astype(np.int32)
    _refuse(reader.mask & ((given < 0) | (given >= S)), "round", given, f"0..{S - 1}")
    # The largest round so far: it must never exceed that of a drawn token.
    highest = np.maximum.accumulate(np.where(reader.mask, given, 0), axis=1)
    _refuse(reader.mask & (given < highest), "round", given, "rounds that never go back along a row")
    # A round is over with its decision: later tokens belong to later rounds.
    closed = np.maximum.accumulate(np.where(decision_mask, given, -1), axis=1)
    before = np.concatenate([np.full((len(closed), 1), -1), closed[:, :-1]], axis=1)
    _refuse(reader.mask & (given <= before), "round", given, "a new round after every decision")
    return np.where(reader.mask, given, highest).astype(np.int32)


def _decisions(reader: _Reader, decision_mask: np.ndarray) -> np.ndarray:
    """i32[B, S]: STOP for a decision that is the last drawn token of its row, RESAMPLE for others, unless given."""
    drawn_after = np.cumsum(reader.mask[:, ::-1], axis=1)[:, ::-1] - reader.mask > 0
    given = reader.ids("decision")
    if given is None:
        return np.where(drawn_after, RESAMPLE, STOP).astype(np.int32)
    allowed = f"{STOP} (STOP) or {RESAMPLE} (RESAMPLE) at every decision token"
    _refuse(decision_mask & (given != STOP) & (given != RESAMPLE), "decision", given, allowed)
    early = decision_mask & (given == STOP) & drawn_after
    _refuse(early, "decision", given, "STOP only at the last drawn token of a trajectory", "STOP = ")
    return np.where(decision_mask, given, STOP).astype(np.int32)


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
    reader: _Reader, logp: np.ndarray, parts: tuple[tuple[np.ndarray, int | None], ...]
) -> np.ndarray | None:
    """f[B, S], within its bounds; `parts` are the (mask, choices) of both components."""
    x = reader.floats("score_norm")
    if x is None:
        return None
    # The root of 1 - 2 p + sum pi^2: where p is near 1 the terms cancel and leave an error of sqrt(eps).
    slack = 4 * max(reader.eps("logp"), reader.eps("score_norm")) ** 0.5
    for mask, choices in parts:
        low, high = (bound**0.5 for bound in square_bounds(logp, choices))
        allowed = "between (1 - p) sqrt(1 + 1/(V-1)) and (1 - p) sqrt(2), p = exp(logp): the norm in the token's logits"
        _refuse(mask & ((x < low - slack) | (x > high + slack)), "score_norm", x, allowed)
    return x


def _gradients(reader: _Reader) -> tuple[np.ndarray | None, np.ndarray | None]:
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

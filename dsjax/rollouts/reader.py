"""Arrays of a file of rollouts one by one, with dtype and shape as `ARRAYS` says, and the checks that they share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dsjax.errors import require
from dsjax.rollouts.arrays import ARRAYS, REQUIRED

_KINDS = {"f": "fiu", "i": "iu", "id": "iuSU", "bool": "biuf"}  # dtype kinds of NumPy
_WORDS = {"f": "a floating dtype", "i": "an integer dtype", "id": "an integer dtype, or words"}


def where(bad: np.ndarray, x: np.ndarray) -> str:
    """`nan at [3, 17] (and 5 more)`."""
    places = np.argwhere(bad)
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"{x[tuple(places[0])]} at {places[0].tolist()}{more}"


def refuse(bad: np.ndarray, name: str, x: np.ndarray, allowed: str, what: str = "") -> None:
    """Raise `InputError` that names the first bad entry of an array."""
    if bad.any():
        require(False, name, what + where(bad, x), allowed)


class Reader:
    """Takes arrays by name. What stands in no mask, or in a row of weight 0, is looked at by nobody."""

    def __init__(self, arrays: Mapping[str, Any], logp_tolerance: float | None = None):
        for name in arrays:
            require(name in ARRAYS, "array", name, ARRAYS)
        for name in REQUIRED:
            replaced = name == "reward" and arrays.get("advantage") is not None
            require(replaced or arrays.get(name) is not None, name, "no such array", REQUIRED[name])
        self.arrays = {name: np.asarray(x) for name, x in arrays.items() if x is not None}
        self.logp_tolerance = logp_tolerance
        logp = self.arrays["logp"]
        require(logp.ndim == 2 and logp.size > 0, "logp.shape", logp.shape, "[B, S], at least [1, 1]")
        self.shape = (int(logp.shape[0]), int(logp.shape[1]))
        self.axes = dict(zip("BS", self.shape, strict=True))  # lengths that are known; others are free
        self.entries = self.shape[0]  # of arrays per trajectory
        self.mask = np.ones(self.shape, bool)  # tokens that count
        self.kept = np.ones(self.entries, bool)  # entries that count

    def take(self, name: str) -> np.ndarray | None:
        """The array as it is; None if it was not given."""
        x = self.arrays.get(name)
        if x is None:
            return None
        found = re.match(r"(\w+)\[([^]]*)\](?: or (\w+)\[([^]]*)\])?", ARRAYS[name])
        assert found is not None
        kind, axes, _, others = found.groups()
        if others is not None and x.ndim == others.count(",") + 1:
            axes = others
        letters = [axis for axis in axes.split(", ") if axis]
        expected = [self.axes.get(axis, axis) for axis in letters]
        if letters[:1] == ["B"] and letters != ["B", "S"]:
            expected[0] = self.entries
        fits = x.ndim == len(expected) and all(n in (m, str(n)) for n, m in zip(expected, x.shape, strict=True))
        shape = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
        packed = f", of {self.entries} trajectories" if self.entries != self.shape[0] else ""
        require(fits, f"{name}.shape", x.shape, f"{shape}: {ARRAYS[name]}, and logp is {self.shape}{packed}")
        if kind == "bool":
            whole = x.dtype.kind in _KINDS["bool"] and bool(((x == 0) | (x == 1)).all())
            require(whole, name, f"dtype {x.dtype}", "bool, or numbers 0 and 1")
        else:
            require(x.dtype.kind in _KINDS[kind], f"{name}.dtype", str(x.dtype), f"{_WORDS[kind]}: {ARRAYS[name]}")
        return x

    def bools(self, name: str) -> np.ndarray | None:
        """A mask, from numbers 0 and 1 too."""
        x = self.take(name)
        return None if x is None else x.astype(bool)

    def floats(self, name: str, counts: np.ndarray | None = None) -> np.ndarray | None:
        """float64; finite, for an array per token where one counts, and 0 elsewhere.

        Args:
          name: of the array.
          counts: the entries that are looked at, if not all tokens of a mask, or all trajectories.
        """
        x = self.take(name)
        if x is None:
            return None
        per_token = "[B, S]" in ARRAYS[name] and x.ndim == 2
        words = "finite at every token of a mask" if per_token else "finite numbers"
        if counts is None:
            counts = self.mask if per_token else self.kept if x.ndim == 1 else np.ones(x.shape, bool)
        refuse(counts & ~np.isfinite(x), name, x, words)
        return np.where(counts, x, 0.0).astype(np.float64)

    def log_prob(self, name: str, counts: np.ndarray | None = None) -> np.ndarray | None:
        """As `floats`, <= 0. Rounding in the array's own precision, up to 64 eps, is read as log 1 = 0."""
        x = self.floats(name, counts)
        if x is None:
            return None
        allowed = "log-probabilities in nats, <= 0 (rounding of up to --logp-tolerance is cut off)"
        refuse(x > self.tolerance(name), name, x, allowed)
        return np.minimum(x, 0.0)

    def tolerance(self, name: str) -> float:
        """How far a log-probability may exceed 0."""
        # A log-softmax is a difference of two logits of some tens, each with a relative error of eps.
        return max(64 * self.eps(name), self.logp_tolerance or 0.0)

    def eps(self, name: str) -> float:
        """Relative precision of the array; 0 for integers."""
        dtype = self.arrays[name].dtype
        return float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0

    def ids(self, name: str) -> np.ndarray | None:
        """i32 of any integers that fit."""
        x = self.take(name)
        if x is None:
            return None
        limit = np.iinfo(np.int32)
        refuse((x < limit.min) | (x > limit.max), name, x, "integers of 32 bits")
        return x.astype(np.int32)

    def labels(self, name: str) -> np.ndarray | None:
        """i[B]: ids, or words, numbered in their order."""
        x = self.take(name)
        return None if x is None else np.unique(x, return_inverse=True)[1]

    def count(self, name: str) -> int | None:
        """A number of choices."""
        x = self.take(name)
        require(x is None or int(x) >= 2, name, x if x is None else int(x), "at least 2 choices")
        return None if x is None else int(x)

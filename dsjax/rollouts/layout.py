"""From the rows of a file to one trajectory a row: weight 0 out, rows of one trajectory joined, packed ones apart.

A file has B rows of S slots and E entries in the arrays per trajectory: E = B, or the number of packed trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsjax.errors import require
from dsjax.rollouts.reader import Reader, refuse


@dataclass(frozen=True)
class Layout:
    """Where the slots of N trajectories stand in the file."""

    place: np.ndarray  # i[N, W] index of the slot in the file's [B * S]; -1 where there is none
    entry: np.ndarray  # i[N] entry of the trajectory in arrays per trajectory: the first one of joined rows
    last: np.ndarray  # i[N] the last one
    entry_of_slot: np.ndarray  # i[N, W] entry of each slot
    shape: tuple[int, int]  # (B, S)

    def tokens(self, x_BxS: np.ndarray) -> np.ndarray:
        """[N, W] from an array of the file; 0 where there is no slot."""
        return np.where(self.place >= 0, x_BxS.reshape(-1)[self.place], np.zeros((), x_BxS.dtype))

    def back(self, x_NxW: np.ndarray) -> np.ndarray:
        """[B, S] as in the file; 0 in slots of no trajectory."""
        out = np.zeros(self.shape[0] * self.shape[1], x_NxW.dtype)
        out[self.place[self.place >= 0]] = x_NxW[self.place >= 0]
        return out.reshape(self.shape)

    def refuse(self, bad: np.ndarray, name: str, x: np.ndarray, allowed: str, what: str = "") -> None:
        """`reader.refuse` of [N, W] arrays, in places of the file."""
        if bad.any():
            refuse(self.back(bad), name, self.back(x), allowed, what)

    def same(self, reader: Reader, name: str, why: str) -> None:
        """Refuse an array per trajectory that differs between the rows of one."""
        x = reader.take(name)
        if x is None:
            return
        own = np.where(self.place >= 0, self.entry_of_slot, self.entry[:, None])
        bad = x[own] != x[self.entry][:, None]
        if bad.any():
            row, slot = np.argwhere(bad)[0]
            at = int(own[row, slot])
            received = f"{x[at]} at [{at}], and {x[self.entry[row]]} at [{int(self.entry[row])}] of the same trajectory"
            require(False, name, received, why)


def layout_of(reader: Reader) -> Layout:
    """The layout of a file; tells the reader which tokens and entries count."""
    B, S = reader.shape
    segments, pieces = reader.ids("segment_ids"), []
    if segments is not None:
        require(
            "trajectory" not in reader.arrays, "trajectory", "an array", "one of trajectory and segment_ids, not both"
        )
        refuse(segments < 0, "segment_ids", segments, "1, 2, .. in each row, 0 = padding")
        refuse(reader.mask & (segments == 0), "segment_ids", segments, "1, 2, .. at every token of a mask")
        pieces = [row * S + np.flatnonzero(segments[row] == i) for row in range(B) for i in _in_order(segments[row])]
        require(bool(pieces), "segment_ids", "0 everywhere", "1, 2, .. for the trajectories packed in a row")
        reader.entries = len(pieces)
    weight = reader.take("weight")
    kept = np.ones(reader.entries, bool)
    if weight is not None:
        refuse(~(np.isfinite(weight) & (weight >= 0)), "weight", weight, ">= 0, not all of them 0")
        kept = weight > 0
        require(bool(kept.any()), "weight", 0.0, ">= 0, not all of them 0")
    reader.kept = kept
    joined, entries = reader.labels("trajectory"), np.flatnonzero(kept)
    if segments is None and joined is None:
        place = np.arange(B * S).reshape(B, S)[entries]
        entry_of_slot, first, last = np.broadcast_to(entries[:, None], place.shape), entries, entries
    else:
        if segments is None:
            pieces = list(np.arange(B * S).reshape(B, S))
        members = [[e] for e in entries] if joined is None else _grouped(entries, joined[entries])
        place = np.full((len(members), max(sum(len(pieces[e]) for e in m) for m in members)), -1)
        entry_of_slot = np.full(place.shape, -1)
        for row, m in enumerate(members):
            slots = np.concatenate([pieces[e] for e in m])
            place[row, : len(slots)] = slots
            entry_of_slot[row, : len(slots)] = np.repeat(m, [len(pieces[e]) for e in m])
        first, last = (np.array([m[i] for m in members]) for i in (0, -1))
    layout = Layout(place, first, last, entry_of_slot, (B, S))
    reader.mask = reader.mask & layout.back(np.ones(place.shape, bool))
    if joined is not None:
        for name in ("weight", "group"):
            layout.same(reader, name, "the same in all rows of a trajectory")
        layout.same(
            reader, "reward", "the return of the whole trajectory in each of its rows (what a turn earned: advantage)"
        )
    return layout


def _in_order(ids: np.ndarray) -> list[int]:
    """The ids above 0, as they first appear."""
    found, first = np.unique(ids, return_index=True)
    return [int(i) for i in found[np.argsort(first)] if i > 0]


def _grouped(entries: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
    """The entries of each label, in the order of the file."""
    order = np.argsort(label, kind="stable")
    parts = np.split(entries[order], np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(parts, key=lambda part: part[0])

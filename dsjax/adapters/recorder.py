"""The one writer of all adapters: arrays of a trainer, of any library, to files of rollouts of format 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.errors import InputError, require
from dsjax.io import write_arrays
from dsjax.rollouts.arrays import ARRAYS
from dsjax.rollouts.layout import layout_of
from dsjax.rollouts.reader import Reader

Arrays = dict[str, Any]
Mark = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]


def to_numpy(x: Any) -> np.ndarray:
    """A tensor of torch (nested too) or JAX, or (ragged) lists, as NumPy: narrow floats as float32, 0 at the end."""
    if hasattr(x, "detach"):
        x = (x.to_padded_tensor(0) if getattr(x, "is_nested", False) else x).detach().cpu()
        x = (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()
    elif isinstance(x, list | tuple) and x and isinstance(x[0], list | tuple | np.ndarray):
        rows = [np.asarray(row) for row in x]
        x = np.stack([np.pad(row, (0, max(map(len, rows)) - len(row))) for row in rows])
    x = np.asarray(x)
    if x.dtype == object:
        return x.astype(str)
    narrow = x.dtype.name == "bfloat16" or (x.dtype.kind == "f" and x.dtype.itemsize < 4)
    return x.astype(np.float32) if narrow else x


class Recorder:
    """Writes the rollouts of a step to `directory/step_000012.npz`, for `dsjax attribute`.

    Args:
      directory: of the files; made if it is not there.
      mark: which tokens are decisions. It takes the arrays of a step, NumPy, by name, with every drawn token in
        `sample_mask`, and returns `decision_mask` and any other array of the format. Tokens of `decision_mask` leave
        `sample_mask`. Without it a file has no decision, and one can still be found in it by its `tokens`.
      every: one step in so many.
      rank: of this process, where several write; each has a directory of its own, `rank_0003`, in `directory` then.
      overwrite: replace files that are there, after a restart.
      **constants: arrays that every file gets: `vocabulary`, `decision_choices`.

    Raises:
      InputError: for arrays that are no part of the format; and where a file is there already.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        mark: Mark | None = None,
        every: int = 1,
        rank: int | None = None,
        overwrite: bool = False,
        **constants: Any,
    ):
        require(every >= 1, "every", every, "at least 1")
        for name in constants:
            require(name in ARRAYS, "array", name, ARRAYS)
        self.directory, self.mark, self.every = Path(directory), mark, every
        self.rank, self.overwrite, self.constants = rank, overwrite, constants
        self.step, self.part = -1, 0

    def write(self, step: int, arrays: Mapping[str, Any]) -> Path | None:
        """Write the arrays of a step. A second call for it writes to `part_01`. Arrays that are None are left out.

        Args:
          step: the number of the update.
          arrays: by name, of any library.

        Returns:
          The file; None for a step that `every` leaves out.
        """
        if step % self.every:
            return None
        self.part = self.part + 1 if step == self.step else 0
        self.step = step
        path = self._folder() / f"step_{step:06d}.npz"
        allowed = "a step that no file is of: another directory, or overwrite=True"
        require(self.overwrite or not path.exists(), "step", str(path), allowed)
        found = self.marked(arrays)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, found)
        return path

    def marked(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays as they are written: NumPy, with decisions, of the names, dtypes and shapes of the format."""
        found = {name: to_numpy(x) for name, x in {**self.constants, **arrays}.items() if x is not None}
        decision = found.get("decision_mask", np.zeros(found["sample_mask"].shape, bool)).astype(bool)
        drawn = found["sample_mask"].astype(bool) | decision
        if self.mark is not None:
            marks = {name: to_numpy(x) for name, x in self.mark({**found, "sample_mask": drawn}).items()}
            decision = needed(marks, "decision_mask", "what mark returns must have it").astype(bool)
            require(decision.shape == drawn.shape, "decision_mask.shape", decision.shape, f"{drawn.shape}")
            found |= marks
        found |= {"sample_mask": drawn & ~decision, "decision_mask": drawn & decision}
        reader = Reader(found)
        layout_of(reader)
        for name in found:
            reader.take(name)
        return found

    def _folder(self) -> Path:
        """Of one file a step."""
        rank = [] if self.rank is None else [f"rank_{self.rank:04d}"]
        return self.directory.joinpath(*rank, *([f"part_{self.part:02d}"] if self.part else []))


def needed(fields: Mapping[str, Any], name: str, how: str) -> Any:
    """`fields[name]`, or an error that says how to make the trainer have it.

    Raises:
      InputError: where it is missing, or None.
    """
    x = fields.get(name)
    if x is None:
        raise InputError(name, "no such array", how)
    return x

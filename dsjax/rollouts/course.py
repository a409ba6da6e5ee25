"""Attribution over training: one row a file of rollouts, told apart by the step in its name, one file in memory.

A row is plain data: numbers, and estimates as {"value", "low", "high"}. The first row of a stored course is its head,
the settings; it goes on where it ended, and with other settings not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsjax.errors import InputError, require
from dsjax.rollouts.arrays import FORMAT
from dsjax.rollouts.diagnosis import Diagnosis
from dsjax.statistics import Estimate

Row = dict[str, Any]
SUFFIX = ".npz"
NONE = Estimate(float("nan"))

# What a row has with an interval, by name.
ESTIMATES: dict[str, Callable[[Diagnosis], Estimate]] = {
    "decision_share": lambda d: d.conventions["block"]["share"],
    "decision_share_per_factor": lambda d: d.conventions["factor"]["share"],
    "sign_agrees": lambda d: _agrees(d, "all"),
    "sign_agrees_stop": lambda d: _agrees(d, "STOP"),
    "sign_agrees_resample": lambda d: _agrees(d, "RESAMPLE"),
    "p_stop_right": lambda d: d.stopping["right"],
    "p_stop_wrong": lambda d: d.stopping["wrong"],
    "signal_to_noise_sample": lambda d: NONE if d.gradients is None else d.gradients["signal_to_noise_sample"],
    "signal_to_noise_decision": lambda d: NONE if d.gradients is None else d.gradients["signal_to_noise_decision"],
}


def _agrees(found: Diagnosis, kind: str) -> Estimate:
    return found.outcome[kind]["agrees"] if kind in found.outcome else NONE


def by_step(paths: Sequence[Path]) -> dict[int, Path]:
    """Files by step, in its order: the number behind `step` in the name, or the last one; a directory is its files.

    Raises:
      InputError: for a directory without such files, one that is not there, a name without a number, or two of a step.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        require(bool(inside), "rollouts", str(path), f"a directory with {SUFFIX} files")
        files += inside
    found: dict[int, Path] = {}
    for path in files:
        identity(path)  # that it is there
        numbers = re.findall(r"step[ _=-]?(\d+)", path.stem, re.IGNORECASE) or re.findall(r"\d+", path.stem)
        require(bool(numbers), "rollouts", str(path), "a name with the step of training, such as step_000120.npz")
        step = int(numbers[-1])
        require(step not in found, "rollouts", str(path), f"one file a step ({found.get(step)} is of step {step} too)")
        found[step] = path
    return dict(sorted(found.items()))


def identity(path: Path) -> Row:
    """What tells whether a file is still the one that a row is of."""
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError("rollouts file", str(path), f"a readable file ({error.strerror})") from error
    return {"file": path.name, "size": stat.st_size, "modified": stat.st_mtime_ns}


def follow(
    steps: Mapping[int, Path], done: Iterable[Row], diagnosed: Callable[[Path], Diagnosis]
) -> Iterator[tuple[Row, bool]]:
    """(row, whether it is new) of each step; a row that is done is taken as it is while its file has not changed.

    Args:
      steps: of `by_step`.
      done: rows of an earlier start.
      diagnosed: reads a file and attributes it; nothing of it is kept but the row.

    Raises:
      InputError: of a file, with its name before the field.
    """
    known = {row["step"]: row for row in done}
    for step, path in steps.items():
        this = identity(path)
        if this.items() <= known.get(step, {}).items():
            yield known[step], False
            continue
        try:
            yield {"step": step, **this, **row_of(diagnosed(path))}, True
        except InputError as error:
            field = error.field if str(path) == error.received else f"{path.name}: {error.field}"
            raise InputError(field, error.received, error.allowed) from error


def row_of(found: Diagnosis) -> Row:
    """The numbers of one file that a course has."""
    counts, decisions = found.rollouts, found.decisions
    return {
        "trajectories": counts["trajectories"],
        "groups": counts["groups"],
        "stop": decisions["STOP"]["count"],
        "resample": decisions["RESAMPLE"]["count"],
        "ended_without_decision": counts["ended_without_decision"],
        "loss": found.loss,
        "mean_reward": counts["mean_reward"],
        "success_from": found.outcome["success_from"],
        "success_rate": found.outcome["success_rate"],
        "right_is_known_of": found.stopping["known_of"],
        "push_on_stop_logit_stop": decisions["STOP"]["push_on_stop_logit"],
        "push_on_stop_logit_resample": decisions["RESAMPLE"]["push_on_stop_logit"],
        **{f"net_over_gross_{name}": x for name, x in found.health["net_over_gross"].items()},
        **{name: of(found).to_json() for name, of in ESTIMATES.items()},
        "notes": found.notes,
    }


def scalars(row: Row) -> Row:
    """The numbers of a row alone, the ends of intervals as NAME/low and NAME/high."""
    out: Row = {"kind": "attribute", "step": row["step"]}
    for name, x in row.items():
        if name in ESTIMATES:
            out |= {name if end == "value" else f"{name}/{end}": x[end] for end in ("value", "low", "high")}
        elif name not in ("step", "size", "modified") and isinstance(x, int | float):
            out[name] = float(x)
    return out


def stored(path: Path, settings: Mapping[str, Any]) -> tuple[list[Row], int]:
    """(rows, bytes that are whole) of a course that is to go on; nothing of one that is not there.

    Raises:
      InputError: for a file of something else, or of other settings.
    """
    head = {"format": FORMAT, **settings}
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise InputError("out", str(path), f"a course that can be read ({error.strerror})") from error
    whole = data.rfind(b"\n") + 1  # a row that was cut off while it was written is none
    try:
        first, *rows = [json.loads(line) for line in data[:whole].splitlines()] or [head]
    except ValueError as error:
        raise InputError("out", str(path), f"JSON lines, as dsjax attribute writes them ({error})") from error
    if first != head:
        theirs = first if isinstance(first, dict) else {}
        other = [f"{name} = {theirs.get(name)!r} there" for name, x in head.items() if theirs.get(name) != x]
        raise InputError("out", str(path), f"a course of the same settings, or a new directory ({', '.join(other)})")
    return rows, whole

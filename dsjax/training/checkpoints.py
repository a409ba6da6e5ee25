"""Training on disk: a series of Orbax checkpoints of everything.

Whatever is written appears whole or not at all, and nothing from a file is ever executed. Of several processes
(`dsjax.training.multihost`) each writes and reads its part of the arrays, process 0 all other files: every process must
call `save_checkpoint`, `load_checkpoint` and the methods of `Checkpoints`.

A checkpoint is a folder:

    arrays/         Orbax: `params` and `training`, each a dictionary of arrays by name
    facts.json      plain data: where metrics end, what was measured, which checkpoint is the best
    manifest.json   size and SHA-256 of every other file, as Orbax restores zero-filled arrays without a word; and the
                    names, types and shapes of the arrays

Retention is our own: Orbax's `training.Checkpointer` with `AnyPreservationPolicy([LatestN(keep), CustomSteps([best])])`
was tried and keeps the same steps. But it gives a checkpoint its final name and removes older ones before `save`
returns, so before there can be a manifest of its files: after a kill in between nothing would verify the newest one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsjax.config import differences
from dsjax.errors import InputError
from dsjax.io import read_json, write_atomically
from dsjax.training.multihost import LostProcessError, all_max, barrier, lost_processes_named, on_process_0

ARRAYS, FACTS, MANIFEST = "arrays", "facts.json", "manifest.json"
SMALL_FILES = 2**18  # bytes: metadata of a checkpoint
Facts = dict[str, Any]
Trees = dict[str, Any]
Usable = Callable[[Facts], str | None]


class StorageError(OSError):
    """Something could not be written, as when the disk is full; what was there before is intact."""


class DamagedError(ValueError):
    """A checkpoint is not what was written; says which file and how."""


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _named(tree: Any) -> dict[str, Any]:
    """{path: leaf}: no file then depends on the classes that a state is built from."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    plain = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=x.sharding)


def _kinds(tree: Any) -> dict[str, str]:
    """{path: shape and type} of a dictionary of arrays."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in tree.items()}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _old(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that half of one is never seen under its name."""
    shutil.rmtree(_old(folder), ignore_errors=True)
    folder.rename(_old(folder))
    shutil.rmtree(_old(folder), ignore_errors=True)


def _require_room(folder: Path, trees: Trees) -> None:
    """Refuse before Orbax runs out of space: its threads then print a page of errors before they raise one."""
    needed = 2 * sum(x.nbytes for x in jax.tree.leaves(trees)) + SMALL_FILES  # it merges what was written first
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free} bytes free, {needed} needed")


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax also logs, with a traceback from each thread, the errors that it raises."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def save_checkpoint(folder: Path, trees: Trees, facts: Facts) -> None:
    """Write a checkpoint, in the place of another of that name if there is one.

    Args:
      folder: of the checkpoint.
      trees: named pytrees of arrays; PRNG keys are stored as their data.
      facts: plain data, for `facts.json`.

    Raises:
      StorageError: if it cannot be written; what was there before still is. Orbax's threads may write on for a moment,
        into a folder that `Checkpoints.clean` removes.
    """
    from orbax.checkpoint import v1 as ocp

    folder = folder.absolute()
    new = folder.parent / f".{folder.name}.new"
    plain = {
        name: {k: jax.random.key_data(x) if _is_key(x) else x for k, x in _named(tree).items()}
        for name, tree in trees.items()
    }

    def prepare() -> None:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        _require_room(new, plain)

    def finish() -> None:
        write_atomically(new / FACTS, json.dumps(facts, allow_nan=False).encode())
        files = sorted(p for p in new.rglob("*") if p.is_file())
        sizes = {p.relative_to(new).as_posix(): [p.stat().st_size, _digest(p)] for p in files}
        manifest = {"files": sizes, "arrays": {name: _kinds(tree) for name, tree in plain.items()}}
        write_atomically(new / MANIFEST, json.dumps(manifest, indent=1).encode())
        for path in (*files, *(p for p in new.rglob("*") if p.is_dir()), new):
            _sync(path)
        if folder.exists():
            shutil.rmtree(_old(folder), ignore_errors=True)
            folder.rename(_old(folder))
        new.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(_old(folder), ignore_errors=True)

    try:
        on_process_0(prepare)
        with _quiet(), lost_processes_named():
            ocp.save_checkpointables(str(new / ARRAYS), plain)
        barrier(f"written {folder}")
        on_process_0(finish)
    except LostProcessError:
        raise
    except Exception as error:  # a full disk is an OSError here, and one of several other classes inside of Orbax
        if jax.process_index() == 0:
            shutil.rmtree(new, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise StorageError(f"{folder.name} could not be written ({reason[:300]})") from error


def check_files(folder: Path) -> dict[str, dict[str, str]]:
    """Compare every file with the manifest; returns the arrays it lists: {tree: {name: type and shape}}.

    Raises:
      DamagedError: for the first that differs.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        listed = [(name, size, digest) for name, (size, digest) in manifest["files"].items()]
        arrays = {name: dict(tree) for name, tree in manifest["arrays"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read") from error
    for name, size, digest in listed:
        file = folder / name
        try:
            found = file.stat().st_size
            if found != size:
                raise DamagedError(f"{name} has {found} bytes, not {size}")
            if _digest(file) != digest:
                raise DamagedError(f"{name} holds other bytes than were written")
        except OSError as error:
            raise DamagedError(f"{name} cannot be read ({error.strerror})") from error
    return arrays


def _examine(folder: Path, kinds: dict[str, dict[str, str]], usable: Usable) -> tuple[Facts, str | None]:
    """The facts of a checkpoint, and why it cannot be used, if so."""
    try:
        there = check_files(folder)
    except DamagedError as error:
        return {}, str(error)
    for name, tree in kinds.items():
        for leaf, old, new in differences(there.get(name, {}), tree):
            return {}, f"it holds another state than this configuration has: {name}.{leaf} {old} -> {new}"
    try:
        facts = read_json(folder / FACTS)
    except InputError as error:
        return {}, f"{FACTS} cannot be read ({error.allowed})"
    return facts, usable(facts)


def load_checkpoint(folder: Path, like: Trees, usable: Usable = lambda facts: None) -> tuple[Trees, Facts]:
    """Read the named pytrees and the facts of a checkpoint.

    Args:
      folder: of the checkpoint.
      like: the pytrees to read, with arrays or `jax.ShapeDtypeStruct` that have a sharding; PRNG keys must be arrays.
        Arrays are restored to that sharding, whatever it was when they were saved.
      usable: says from its facts why a checkpoint cannot be used.

    Raises:
      DamagedError: if a file differs from the manifest, or holds other arrays than `like`, or it cannot be used.
    """
    from orbax.checkpoint import v1 as ocp

    abstract = {name: jax.tree.map(_abstract, _named(tree)) for name, tree in like.items()}
    kinds = {name: _kinds(tree) for name, tree in abstract.items()}
    facts, reason = on_process_0(lambda: _examine(folder, kinds, usable))
    if reason is not None:
        raise DamagedError(reason)
    arrays = str(folder.absolute() / ARRAYS)
    stored: Trees = {}
    try:
        with lost_processes_named():
            stored = {name: ocp.load(arrays, tree, checkpointable_name=name) for name, tree in abstract.items()}
    except LostProcessError:
        raise
    except Exception as error:  # whole files, so it is another version of Orbax, which has no one class for that
        reason = f"Orbax cannot read it ({' '.join(str(error).split())[:300]})"
    if all_max(1 if reason else None):
        raise DamagedError(reason or "another process cannot read it")
    trees = {}
    for name, tree in like.items():
        leaves = [
            jax.random.wrap_key_data(stored[name][k], impl=jax.random.key_impl(x)) if _is_key(x) else stored[name][k]
            for k, x in _named(tree).items()
        ]
        trees[name] = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return trees, facts


class Restored(NamedTuple):
    """A checkpoint in memory."""

    step: int
    trees: Trees
    facts: Facts
    skipped: list[str]  # newer ones that could not be used, and why


class Checkpoints:
    """The checkpoints of a run, PATH/STEP: the newest `keep`, and the best."""

    def __init__(self, path: Path, keep: int):
        self.path = path
        self.keep = keep

    def folder(self, step: int) -> Path:
        """Of the checkpoint after that many updates."""
        return self.path / f"{step:08d}"

    def steps(self) -> list[int]:
        """Those on disk, oldest first."""

        def there() -> list[int]:
            names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            return sorted(int(name) for name in names if name.isdecimal())

        return on_process_0(there)

    def clean(self) -> None:
        """Finish or undo what a killed process left half done; only for the job that holds the run."""

        def settle() -> None:
            for path in self.path.glob(".*") if self.path.is_dir() else ():
                name = path.name.removeprefix(".").removesuffix(".old")
                if path.suffix == ".old" and name.isdecimal() and not self.folder(int(name)).exists():
                    path.rename(self.folder(int(name)))
                else:
                    shutil.rmtree(path, ignore_errors=True)

        on_process_0(settle)

    def save(self, step: int, trees: Trees, facts: Facts, best: int | None) -> None:
        """Write a checkpoint, then remove those that are neither new enough nor the best.

        Raises:
          StorageError: see `save_checkpoint`.
        """
        save_checkpoint(self.folder(step), trees, facts)
        old = [self.folder(old) for old in self.steps()[: -self.keep] if old != best]
        on_process_0(lambda: [_remove(folder) for folder in old])

    def restore(self, like: Trees, usable: Usable = lambda facts: None) -> Restored | None:
        """The newest checkpoint that can be used, or None where there is none.

        Newer ones that cannot are moved aside to STEP.damaged.

        Args:
          like: see `load_checkpoint`.
          usable: says from its facts why a checkpoint cannot be used.

        Raises:
          InputError: if there are checkpoints, but none can be used; they are left as they are.
        """
        skipped: dict[int, str] = {}

        def put_aside() -> None:
            for bad in skipped:
                aside = self.path / f"{self.folder(bad).name}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                self.folder(bad).rename(aside)

        for step in reversed(self.steps()):
            try:
                trees, facts = load_checkpoint(self.folder(step), like, usable)
            except DamagedError as error:
                skipped[step] = str(error)
                continue
            on_process_0(put_aside)
            return Restored(step, trees, facts, [f"update {bad}: {why}" for bad, why in skipped.items()])
        if skipped:
            reasons = "; ".join(f"update {step}: {why}" for step, why in skipped.items())
            raise InputError("checkpoints", str(self.path), f"one that can be read ({reasons})")
        return None

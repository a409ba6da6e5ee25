"""Run directories: stages that are done once, kept on disk, and skipped when the same command runs again.

Layout of a run directory:

    config.json                 what was asked for; another configuration is refused
    stages/NAME/result.json     written last: its presence means that the stage is done
    stages/NAME/metrics.jsonl   rows of the stage
    stages/NAME/params.msgpack  its parameters, if it has any
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import dsjax
from dsjax.config import differences
from dsjax.errors import InputError, require
from dsjax.io import inside, read_json, read_rows, write_json

FORMAT = 1
Row = dict[str, Any]


def _commit() -> str | None:
    """The commit that the package is run from, with `-dirty` for changes on top of it; None outside of a checkout."""
    command = ["git", "-C", str(Path(dsjax.__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """Its model, where the system tells it: XLA's code, and so the rounding of its sums, depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def provenance() -> dict[str, Any]:
    """Versions and device, to be stored next to every result."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "dsjax": dsjax.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "processor": _processor(),
    }


class RunDirectory:
    """A directory that belongs to one configuration of one kind of run."""

    def __init__(self, path: str | Path, kind: str, config: Mapping[str, Any], may_change: Collection[str] = ()):
        """`may_change` names fields whose new value replaces the one in the directory."""
        self.path = Path(path)
        self.kind = kind
        self.config = dict(config)
        self.may_change = frozenset(may_change)
        self._lock: Any = None

    def open(self) -> None:
        """Create or reopen it, and hold it for this process.

        Raises:
          InputError: if it cannot be written, holds something else, holds another configuration's results, or is in
            use; nothing in it is changed in any of these cases.
        """
        self._stored()
        with ExitStack() as on_failure:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = on_failure.enter_context((self.path / ".lock").open("a"))
                self._lock_file(lock)
                self.settle()  # looks again: another process may just have opened it
                if not os.access(self.path, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except BlockingIOError as error:
                raise InputError("output directory", str(self.path), "one that no other process is using") from error
            except OSError as error:
                raise self._unwritable(error) from error
            on_failure.pop_all()
            self._lock = lock

    def settle(self) -> None:
        """Create it, or check that it is of this configuration: `open` without holding it, where that is not needed.

        Raises:
          InputError: if it cannot be written, or holds something else or another configuration's results.
        """
        stored = self._stored()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if stored is None or differences(stored, self.config):
                write_json(self.path / "config.json", {"kind": self.kind, "format": FORMAT, "config": self.config})
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError("output directory", str(self.path), f"one that can be written ({error.strerror})")

    def _lock_file(self, lock: Any) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)  # `in_use` holds it for an instant
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Let other processes use it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _stored(self) -> dict[str, Any] | None:
        """The configuration that is there, None in a new directory; what is not of this one is refused."""
        config_file = self.path / "config.json"
        try:
            if self.path.exists() and not self.path.is_dir():
                raise InputError("output directory", str(self.path), "a directory (this is a file)")
            names = [p.name for p in self.path.iterdir()] if self.path.exists() else []
            others = [n for n in names if n != ".lock" and not n.startswith(".config.json.")]  # a killed first start's
        except OSError as error:
            raise InputError("output directory", str(self.path), f"one that can be read ({error})") from error
        what = "one with a readable config.json"
        stored = read_json(config_file, "output directory", what) if config_file.exists() else None
        if stored is None:
            held = ", ".join(sorted(others)[:3])
            allowed = f"a new or empty directory, or one of an earlier {self.kind} run (it holds {held})"
            require(not others, "output directory", str(self.path), allowed)
            return None
        ours = isinstance(stored, dict) and isinstance(stored.get("config"), dict)
        found = (stored.get("kind"), stored.get("format")) if ours else None
        allowed = f"one of a {self.kind} run, format {FORMAT}"
        require(found == (self.kind, FORMAT), "output directory", str(self.path), allowed)
        changed = [d for d in differences(stored["config"], self.config) if d[0] not in self.may_change]
        if changed:
            field, old, new = changed[0]
            others = [f"{name} {before!r} -> {after!r}" for name, before, after in changed[1:]]
            more = f"; {len(others)} more fields differ: {', '.join(others)}" if others else ""
            raise InputError(
                field, new, f"{old!r}, the value of the results in {self.path}{more}; or another output directory"
            )
        return stored["config"]

    def stage_path(self, name: str) -> Path:
        """Folder of a stage."""
        return inside(self.path / "stages", name)

    def done(self, name: str) -> bool:
        """Whether a stage is complete."""
        return (self.stage_path(name) / "result.json").exists()

    def result(self, name: str) -> dict[str, Any]:
        """The result of a complete stage."""
        return read_json(self.stage_path(name) / "result.json", f"stage {name}")

    def rows(self, name: str) -> list[Row]:
        """The metric rows of a stage."""
        file = self.stage_path(name) / "metrics.jsonl"
        return read_rows(file) if file.exists() else []

    def run_stage(self, name: str, work: Callable[[StageWriter], dict[str, Any]]) -> dict[str, Any]:
        """The stage's result: from disk if it is complete, else by doing the work from its start."""
        if self.done(name):
            return self.result(name)
        folder = self.stage_path(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        with StageWriter(folder, name) as writer:
            result = work(writer)
        result = {**result, "seconds": round(time.perf_counter() - start, 3)}
        write_json(folder / "result.json", result)
        return result


class StageWriter:
    """Where a stage in progress puts its rows and files."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.name = name
        self._file = (folder / "metrics.jsonl").open("w")

    def __enter__(self) -> StageWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def record(self, row: Row) -> None:
        """Append one row; a kill loses at most the row being written, and the stage starts again anyway."""
        self._file.write(json.dumps({"stage": self.name, **row}, allow_nan=False) + "\n")
        self._file.flush()


def in_use(path: Path) -> bool:
    """Whether a process holds the run directory at that path."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has opened it yet
        return False
    return False


@contextmanager
def opened(directory: RunDirectory) -> Iterator[RunDirectory]:
    """`open` and `close`."""
    directory.open()
    try:
        yield directory
    finally:
        directory.close()

"""Plant one error at a time in a copy of the library and see which check notices it: `make mutation`.

Order of evidence for each error: its theorems on a few instances (first shape, then all), then its tests; the first
that fails has caught it, and so has running out of time. Before that the same evidence must pass on an unchanged copy.
Every copy stands in a temporary directory of its own, and each process says which `dsjax` it imported.

Results go to `experiments/mutation/results.json`:

    {"version": 1, "commit": git commit or null, "content": hash of the library and the checks,
     "mutations": [{"id", "file", "description", "caught_by", "seconds", "key"}], "survived": [id, ..],
     "pending": [id, ..]}

`caught_by` is "theorem T1: claim", "test node id" or "timeout in T1", null for a survivor; `seconds` is wall clock with
two processes side by side. `key` is a hash of the error and of everything that its evidence reads: a result with the
same key is kept by the next run. `pending` are the errors that were not tried yet. Exit status 1 if an error survives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dsjax.io import write_json
from tests.mutation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "mutation" / "results.json"
VERSION = 1
COPIED = ("dsjax", "proofs_check", "tests", "pyproject.toml", "docs/theory.md", "docs/theory.md.j2")
WORKERS = 2
TIMEOUT = 180.0  # seconds; an unchanged library needs at most a third of it for any one error's evidence
CONTROL_TIMEOUT = 900.0


class MutationRunError(RuntimeError):
    """The run itself is broken: nothing can be said about the checks."""


@dataclass(frozen=True)
class Outcome:
    """What one process of evidence found."""

    caught_by: str | None
    seconds: float


def _files(root: Path) -> list[Path]:
    """What is copied, relative to the root."""
    found: list[Path] = []
    for name in COPIED:
        path = root / name
        inside = path.rglob("*") if path.is_dir() else (path,)
        found += [p.relative_to(root) for p in inside if p.is_file() and "__pycache__" not in p.parts]
    return sorted(found)


def _hash(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def content_hash(root: Path, tests: Iterable[str] | None = None) -> str:
    """Hash of the library, the theorem checks and the tests: all of them, or these files and what tests share."""
    wanted = None if tests is None else {test.partition("::")[0] for test in tests}

    def read(path: Path) -> bool:
        if path.parts[:2] == ("tests", "mutation"):
            return False
        return wanted is None or not path.name.startswith("test_") or path.as_posix() in wanted

    paths = [path for path in _files(root) if read(path)]
    return _hash(part for path in paths for part in (path.as_posix(), (root / path).read_bytes()))


def key(mutation: Mutation, root: Path = ROOT) -> str:
    """Hash of the error and of everything that its evidence reads."""
    m = mutation
    return _hash((content_hash(root, m.tests), m.id, m.file, m.old, m.new, *m.theorems, "", *m.tests))


def copy(root: Path, target: Path) -> None:
    """A copy that does not change while the run goes on."""
    for path in _files(root):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / path)


def gather(place: Path, theorems: Sequence[str], tests: Sequence[str], timeout: float) -> Outcome:
    """Evidence on the copy at `place`, in a process of its own.

    Raises:
      MutationRunError: if it imported another library or stopped without an answer.
    """
    out, log = place.parent / "found.json", place.parent / "log.txt"
    out.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file changed twice within a second has the same time stamp
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",  # as tests/conftest.py
        "JAX_COMPILATION_CACHE_DIR": str(place.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "MPLBACKEND": "Agg",
    }
    arguments = json.dumps({"theorems": list(theorems), "tests": list(tests), "out": str(out)})
    command = [sys.executable, "-m", "tests.mutation.evidence", arguments]
    start, late = time.perf_counter(), False
    with log.open("w") as stream:
        try:
            subprocess.run(command, cwd=place, env=environment, stdout=stream, stderr=stream, timeout=timeout)
        except subprocess.TimeoutExpired:
            late = True
    seconds = time.perf_counter() - start
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    imported = found.get("dsjax")
    if imported is not None and Path(imported).resolve().parent != (place / "dsjax").resolve():
        raise MutationRunError(f"imported {imported}, not the copy in {place}")
    if late:
        return Outcome(f"timeout in {found.get('stage', 'import')}", seconds)
    if not found.get("finished"):
        raise MutationRunError(f"no answer from {command}:\n{log.read_text()[-3000:]}")
    caught_by = found["caught_by"]
    if caught_by is not None and found["stage"] != "import":
        caught_by = f"{'test' if found['stage'] == 'tests' else 'theorem'} {caught_by}"
    return Outcome(caught_by, seconds)


def try_mutation(place: Path, mutation: Mutation) -> Outcome:
    """Plant the error, gather its evidence, take it out again."""
    path = place / mutation.file
    source = path.read_text()
    path.write_text(mutation.apply(source))
    try:
        return gather(place, mutation.theorems, mutation.tests, TIMEOUT)
    finally:
        path.write_text(source)


def check_unchanged(places: Sequence[Path], mutations: Sequence[Mutation]) -> float:
    """All evidence of these mutations on the unchanged library, shared out over the copies; returns seconds.

    Afterwards all copies have the compiled programs of all of them.

    Raises:
      MutationRunError: if anything fails.
    """
    theorems = list(dict.fromkeys(t for m in mutations for t in m.theorems))
    tests = sorted({t for m in mutations for t in m.tests})
    start, n = time.perf_counter(), len(places)
    with ThreadPoolExecutor(n) as pool:
        futures = [
            pool.submit(gather, place, theorems[i::n], tests[i::n], CONTROL_TIMEOUT) for i, place in enumerate(places)
        ]
        for future in futures:
            if caught := future.result().caught_by:
                raise MutationRunError(f"the unchanged library fails: {caught}")
    for source in places:
        for target in places:
            if source != target and (source.parent / "cache").exists():
                shutil.copytree(source.parent / "cache", target.parent / "cache", dirs_exist_ok=True)
    return time.perf_counter() - start


def _commit(root: Path) -> str | None:
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _entry(mutation: Mutation, outcome: Outcome, mutation_key: str) -> dict[str, Any]:
    return {
        "id": mutation.id,
        "file": mutation.file,
        "description": mutation.wrong,
        "caught_by": outcome.caught_by,
        "seconds": round(outcome.seconds, 1),
        "key": mutation_key,
    }


def _write(path: Path, done: dict[str, dict[str, Any]], commit: str | None, content: str) -> None:
    """Results so far, in the order of the list; never half a file."""
    entries = [done[m.id] for m in MUTATIONS if m.id in done]
    survived = [e["id"] for e in entries if e["caught_by"] is None]
    pending = [m.id for m in MUTATIONS if m.id not in done]
    data = {"version": VERSION, "commit": commit, "content": content, "mutations": entries, "survived": survived}
    data["pending"] = pending
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data)


def _kept(path: Path, keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Results of an earlier run that still stand."""
    if not path.exists():
        return {}
    data = json.loads(path.read_text())
    if data.get("version") != VERSION:
        return {}
    return {e["id"]: e for e in data["mutations"] if keys.get(e["id"]) == e["key"] and e["caught_by"] is not None}


def table(entries: Iterable[dict[str, Any]]) -> Table:
    """One row an error."""
    out = Table(title="Planted errors", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("id", no_wrap=True)
    out.add_column("what is wrong", ratio=1)
    out.add_column("caught by", ratio=1)
    out.add_column("s", justify="right", no_wrap=True)
    for e in entries:
        caught = escape(e["caught_by"]) if e["caught_by"] else "[red]SURVIVED[/red]"
        out.add_row(e["id"], escape(e["description"]), caught, f"{e['seconds']:.0f}")
    return out


def run(
    mutations: Sequence[Mutation] = MUTATIONS,
    *,
    workers: int = WORKERS,
    results: Path = RESULTS,
    console: Console | None = None,
) -> int:
    """Try every mutation that has no valid result yet; 0 if every one of them is caught, 1 if not.

    Raises:
      MutationRunError: if the unchanged library fails its checks, or a process gives no answer.
    """
    console = console or Console()
    commit = _commit(ROOT)
    with tempfile.TemporaryDirectory(prefix="dsjax-mutation-") as scratch:
        places = [Path(scratch) / f"worker{i}" / "copy" for i in range(workers)]
        for place in places:
            copy(ROOT, place)
        content = content_hash(places[0])
        keys = {m.id: key(m, places[0]) for m in MUTATIONS}
        done = _kept(results, keys)
        pending = [m for m in mutations if m.id not in done]
        console.print(f"{len(mutations)} mutations, {len(mutations) - len(pending)} with a result that still stands")
        if pending:
            console.print("Unchanged library first ..")
            console.print(f"Unchanged library passes, {check_unchanged(places, pending):.0f} s")
        free: queue.Queue[Path] = queue.Queue()
        for place in places:
            free.put(place)
        lock = threading.Lock()

        def one(mutation: Mutation) -> Mutation:
            place = free.get()
            try:
                outcome = try_mutation(place, mutation)
            finally:
                free.put(place)
            with lock:
                done[mutation.id] = _entry(mutation, outcome, keys[mutation.id])
                _write(results, done, commit, content)
            return mutation

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress, ThreadPoolExecutor(workers) as pool:
            task = progress.add_task("mutations", total=len(pending))
            futures: list[Future[Mutation]] = [pool.submit(one, m) for m in pending]
            try:
                for future in as_completed(futures):
                    progress.update(task, advance=1, description=future.result().id)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        _write(results, done, commit, content)
    entries = [done[m.id] for m in mutations]
    console.print(table(entries))
    kinds = [e["caught_by"].partition(" ")[0] for e in entries if e["caught_by"]]
    by = ", ".join(f"{kind} {kinds.count(kind)}" for kind in sorted(set(kinds)))
    survived = [e["id"] for e in entries if e["caught_by"] is None]
    console.print(f"{len(entries)} errors planted; caught by: {by}; survived: {', '.join(survived) or 'none'}")
    return 1 if survived else 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Plant errors in a copy of the library; which check notices them?")
    parser.add_argument("ids", nargs="*", help="mutations to try; all by default")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    known = {m.id: m for m in MUTATIONS}
    if unknown := [name for name in given.ids if name not in known]:
        parser.error(f"unknown mutations: {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = tuple(known[name] for name in given.ids) or MUTATIONS
    try:
        status = run(chosen, workers=given.workers, results=given.results)
    except MutationRunError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()

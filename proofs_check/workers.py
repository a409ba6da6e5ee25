"""Theorems over several processes: tracing their programs, half of a cold run, holds the interpreter's lock."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from proofs_check.registry import select
from proofs_check.report import Report
from proofs_check.results import TheoremResult, numeric_report
from proofs_check.runner import DEFAULT_INSTANCES, Progress, require_numbers, run
from proofs_check.theorem import Theorem


def _one(name: str, instances: int, seed: int, quick: bool) -> TheoremResult:
    """In a worker; one thread compiles while the programs before run."""
    (result,) = run((name,), instances, seed, quick=quick, threads=1).rows
    return result


def _size(theorem: Theorem) -> int:
    return len(theorem.shapes) * (len(theorem.claims) + len(theorem.controls))


def run_in_workers(
    ids: Sequence[str] | None = None,
    instances: int = DEFAULT_INSTANCES,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    *,
    quick: bool = False,
    workers: int = 2,
) -> Report:
    """As `runner.run`, with the same numbers, by this many processes; the hook is called after every theorem.

    Raises:
      InputError: as `runner.run`.
    """
    theorems = select(ids)
    require_numbers(instances, seed)
    if workers < 2 or len(theorems) < 2:
        return run(ids, instances, seed, progress, quick=quick)
    start = time.perf_counter()
    results: dict[str, TheoremResult] = {}
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would leave behind
    with ProcessPoolExecutor(min(workers, len(theorems)), mp_context=context) as pool:
        try:
            largest_first = sorted(theorems, key=_size, reverse=True)
            futures = [pool.submit(_one, t.id, instances, seed, quick) for t in largest_first]
            for future in as_completed(futures):
                result = future.result()
                results[result.id] = result
                if progress is not None:
                    progress(Progress(result.id, instances * len(results), instances * len(theorems)))
        finally:
            pool.shutdown(cancel_futures=True)
    return numeric_report(seed, instances, [results[t.id] for t in theorems], time.perf_counter() - start)

"""Runs theorem checks on random instances: one compiled program a (theorem, shape), instances batched by `vmap`.

Programs are compiled ahead of time by a few threads (compilation dominates a default run and releases the
interpreter), then run one after the other. Everything happens on the CPU in a float64 scope; no JAX setting changes.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import require
from dsjax.numerics import compile_quickly, exact
from dsjax.process import DecisionSamplingProcess
from proofs_check.instance_file import decode, encode
from proofs_check.instances import shape_of
from proofs_check.registry import select
from proofs_check.report import Report
from proofs_check.results import ClaimResult, ControlResult, TheoremResult, Worst, numeric_report
from proofs_check.statement import STATEMENTS, Statement
from proofs_check.theorem import Measured, Theorem

CHUNK = 32  # instances a call, whatever their number: bounds memory
OWN_LIMIT = 500  # trajectories of a user's own process
DEFAULT_INSTANCES = 1000
QUICK_INSTANCES = 32
COMPILERS = 2  # threads
BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@dataclass(frozen=True)
class Progress:
    """What the hook of `run` is told, once a chunk."""

    theorem: str
    done: int  # instances done, all theorems together
    total: int  # instances to do, all theorems together


def measure(theorem: Theorem, instance: Any) -> tuple[dict[str, Measured], dict[str, jax.Array]]:
    """(claims, errors of the controls) of one instance."""
    setting = theorem.prepare(instance)
    return theorem.check(setting), theorem.control(setting)


@dataclass(frozen=True)
class _Job:
    """One (theorem, shape) with its share of the instances."""

    theorem: Theorem
    shape: Hashable
    index: int  # of the shape
    instances: int
    seed: int
    process: DecisionSamplingProcess | None = None  # a user's own; a random one for each instance by default

    @property
    def chunk(self) -> int:
        return min(CHUNK, self.instances)

    def key(self) -> jax.Array:
        """Instance i of a shape is drawn from `fold_in(key(), i)`, however many instances are run."""
        base = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(self.theorem.id.encode()))
        return jax.random.fold_in(base, self.index)

    def draw(self, key: jax.Array, index: jax.Array | int) -> Any:
        """The instance of that number."""
        return self.theorem.draw(jax.random.fold_in(key, index), self.shape, self.process)

    def program(self, key: jax.Array, index: jax.Array) -> Any:
        """Check and controls of the instances of those numbers."""
        return jax.vmap(lambda i: measure(self.theorem, self.draw(key, i)))(index)


def _load_blas() -> None:
    """Load SciPy's BLAS, which JAX's eigendecompositions use, with one thread; nothing if it is loaded already.

    With several, those that have nothing to do wait by spinning: matrices of a hundred rows, one after the other, took
    ten times the processor time.
    """
    if "scipy.linalg" in sys.modules:
        return
    before = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = before or "1"
    importlib.import_module("scipy.linalg")  # reads the variable once
    if before is None:
        del os.environ[BLAS_THREADS]


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A tenth of the full garbage collections: they walk all that JAX has cached, and took a tenth of a cold run."""
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], 10 * before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _exact_scope(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run in float64 on the CPU; scopes are per thread, so compiler threads need it too."""

    def scoped(*args: Any, **options: Any) -> Any:
        with exact():
            return function(*args, **options)

    return scoped


@_exact_scope
def _compile(job: _Job) -> tuple[Any, float]:
    """(executable, seconds)."""
    start = time.perf_counter()
    executable = compile_quickly(job.program, job.key(), jnp.arange(job.chunk))
    return executable, time.perf_counter() - start


@_exact_scope
def _chunk(job: _Job, executable: Any, start: int) -> Any:
    """One chunk, cut to the instances that were asked for."""
    out = jax.device_get(executable(job.key(), jnp.arange(start, start + job.chunk)))
    return jax.tree.map(lambda x: x[: job.instances - start], out)


def _jobs(
    theorem: Theorem,
    shapes: Sequence[Hashable],
    instances: int,
    seed: int,
    process: DecisionSamplingProcess | None = None,
) -> list[_Job]:
    """Spread the instances over the shapes: evenly, but fewer on what costs far more."""
    weights = [getattr(shape, "share", 1.0) for shape in shapes]
    ends = [round(instances * sum(weights[: i + 1]) / sum(weights)) for i in range(len(shapes))]
    shares = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    pairs = zip(shapes, shares, strict=True)
    return [_Job(theorem, shape, i, n, seed, process) for i, (shape, n) in enumerate(pairs) if n > 0]


@dataclass
class _Accumulator:
    """Results of one theorem while its chunks come in."""

    theorem: Theorem
    controls_required: bool = True
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    instances: int = 0
    claims: dict[str, list[tuple[_Job, int, Measured]]] = field(default_factory=dict)
    controls: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, job: _Job, start: int, out: Any) -> None:
        claims, controls = out
        for name, measured in claims.items():
            self.claims.setdefault(name, []).append((job, start, measured))
        for name, error in controls.items():
            self.controls.setdefault(name, []).append(error)
        self.instances += min(job.chunk, job.instances - start)

    def result(self) -> TheoremResult:
        theorem = self.theorem
        names = {claim.name for claim in theorem.claims}
        unknown = (self.claims.keys() - names) | (self.controls.keys() - {c.name for c in theorem.controls})
        assert not unknown, f"{theorem.id} measured what it does not declare: {sorted(unknown)}"
        claims = []
        for claim in theorem.claims:
            if claim.name not in self.claims:  # applies to none of the shapes that were run
                continue
            parts = self.claims[claim.name]
            errors = [np.where(np.isfinite(m.error), m.error, np.inf) for _, _, m in parts]
            at = int(np.argmax([e.max() for e in errors]))
            job, start, _ = parts[at]
            margins = [m.margin for _, _, m in parts if m.margin is not None]
            smallest = float(np.min(np.concatenate(margins))) if margins else None
            worst = Worst(str(job.shape), start + int(errors[at].argmax()), job.index)
            claims.append(
                ClaimResult(claim.name, float(errors[at].max()), claim.tolerance, smallest, claim.strict, worst)
            )
        controls = []
        for control in theorem.controls:
            if control.name not in self.controls:
                continue
            error = np.concatenate(self.controls[control.name])
            error = np.where(np.isfinite(error), error, -np.inf)  # a control that breaks down rejects nothing
            controls.append(
                ControlResult(control.name, error.size, float(error.min()), theorem.tolerance(control.claim))
            )
        return TheoremResult(
            STATEMENTS.get(theorem.id)
            or Statement(theorem.id, theorem.provenance, theorem.title, theorem.statement, theorem.statement),
            self.instances,
            tuple(claims),
            tuple(controls),
            self.compile_seconds,
            self.run_seconds,
            self.controls_required,
        )


def _plan(
    theorem: Theorem, instances: int, seed: int, quick: bool, process: DecisionSamplingProcess | None
) -> list[_Job]:
    if process is None:
        return _jobs(theorem, theorem.shapes[:1] if quick else theorem.shapes, instances, seed)
    shapes = theorem.on_process(theorem, shape_of(process), process)
    return _jobs(theorem, shapes, instances, seed, process)


def require_numbers(instances: int, seed: int) -> None:
    """Raise `InputError` for numbers that `run` cannot use."""
    require(instances >= 1, "instances", instances, "at least 1")
    require(0 <= seed < 2**32, "seed", seed, "0..2^32-1")


def run(
    ids: Sequence[str] | None = None,
    instances: int = DEFAULT_INSTANCES,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    *,
    quick: bool = False,
    process: DecisionSamplingProcess | None = None,
    threads: int = COMPILERS,
) -> Report:
    """Check theorems on random instances.

    Args:
      ids: which ones, e.g. `("T1", "T3")`; all of them by default.
      instances: random instances per theorem, spread over its shapes.
      seed: of every draw; the same seed gives the same numbers.
      progress: called after every chunk of instances.
      quick: only the first shape of each theorem, which saves most of the compilation.
      process: check on this process, with random policies, the theorems whose requirements it meets. Controls are
        then reported but not required: a process can be too special to tell a wrong variant from a right one.
      threads: that compile.

    Raises:
      InputError: for an unknown theorem, instances < 1, a seed outside of 0..2^32-1 or a process that is too large.
    """
    theorems = select(ids)
    require_numbers(instances, seed)
    skipped: dict[str, tuple[str, ...]] = {}
    if process is not None:
        require(
            process.num_trajectories <= OWN_LIMIT,
            "number of trajectories of the process",
            process.num_trajectories,
            f"at most {OWN_LIMIT}, for energies need a Fisher matrix over all contexts",
        )
        skipped = {t.id: t.unmet(process) for t in theorems if t.unmet(process)}
        theorems = tuple(t for t in theorems if t.id not in skipped)
    results, done = [], 0
    start = time.perf_counter()
    _load_blas()
    with _rare_collections(), ThreadPoolExecutor(threads) as pool:
        try:
            plan: list[tuple[Theorem, list[tuple[_Job, Future]]]] = [
                (
                    theorem,
                    [(job, pool.submit(_compile, job)) for job in _plan(theorem, instances, seed, quick, process)],
                )
                for theorem in theorems
            ]
            for theorem, jobs in plan:
                found = _Accumulator(theorem, controls_required=process is None)
                for job, future in jobs:
                    executable, seconds = future.result()
                    found.compile_seconds += seconds
                    for first in range(0, job.instances, job.chunk):
                        began = time.perf_counter()
                        found.add(job, first, _chunk(job, executable, first))
                        found.run_seconds += time.perf_counter() - began
                        done += min(job.chunk, job.instances - first)
                        if progress is not None:
                            progress(Progress(theorem.id, done, instances * len(theorems)))
                results.append(found.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return numeric_report(seed, instances, results, time.perf_counter() - start, skipped)


@_exact_scope
def worst_instance(
    result: TheoremResult,
    seed: int,
    *,
    instances: int = DEFAULT_INSTANCES,
    quick: bool = False,
    process: DecisionSamplingProcess | None = None,
) -> dict[str, Any]:
    """The instance with the largest error relative to its tolerance, for `instance_file`; arguments as in `run`."""
    (theorem,) = select([result.id])
    worst = max(result.claims, key=lambda c: c.worst_error / c.tolerance if c.tolerance > 0 else c.worst_error)
    job = next(j for j in _plan(theorem, instances, seed, quick, process) if j.index == worst.worst.shape_index)
    instance = job.draw(job.key(), worst.worst.index)
    origin = {"seed": seed, "shape": worst.worst.shape, "index": worst.worst.index, "claim": worst.name}
    return encode(theorem, job.shape, instance, origin)


@_exact_scope
def run_instance(data: Any, ids: Sequence[str] | None = None) -> Report:
    """Check one stored instance.

    Args:
      data: JSON values of an instance file.
      ids: the theorem that it must be of, if given.

    Raises:
      InputError: if it is not an instance of that theorem.
    """
    start = time.perf_counter()
    theorem, shape, instance = decode(data)
    require(not ids or list(ids) == [theorem.id], "theorem", list(ids or ()), f"{theorem.id}, as in the instance file")
    out = jax.device_get(jax.jit(lambda x: measure(theorem, x))(instance))
    found = _Accumulator(theorem)
    job = _Job(theorem, shape, 0, 1, 0)
    found.add(job, 0, jax.tree.map(lambda x: np.asarray(x)[None], out))
    found.compile_seconds = time.perf_counter() - start  # nearly all of it
    return numeric_report(0, 1, (found.result(),), found.compile_seconds)

"""Checks theorems on random instances: one compiled program a (theorem, shape), instances batched by `vmap`.

Programs are compiled ahead of time by a few threads (compilation dominates a default run and releases the
interpreter), then run one after the other. Everything happens on the CPU in a float64 scope; no JAX setting changes.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.config import require_seed
from dsjax.errors import require
from dsjax.io import read_json, require_memory
from dsjax.numerics import compile_quickly, exact
from dsjax.process import DecisionSamplingProcess
from proofs_check import extremes, instance_file
from proofs_check.instances import shape_of
from proofs_check.registry import select
from proofs_check.report import Report
from proofs_check.requirements import occurring
from proofs_check.results import ClaimResult, ControlResult, ExtremeResult, TheoremResult, Worst, numeric_report
from proofs_check.theorem import Claim, Theorem

CHUNK = 32  # instances a call, whatever their number: bounds memory
LARGE = 0.1  # the share of an instance that takes much memory; so few of them a call
FEW = 2
OWN_LIMIT = 500  # trajectories of a user's own process
OWN_COST = 100.0  # of all its attempts: energies of order 100^2 are exact to 1e4 EPS = 2e-12, within tolerances
OWN_CHUNK = 4  # of networks on it, which cost a hundred times more: the first chunk says how long the rest takes
OWN_SHARE = 0.05  # of them, next to other policies
DEFAULT_INSTANCES = 1000
INSTANCE_BYTES = 48  # that stay: number, kind and error in float64, of a claim and of a control
QUICK_INSTANCES = 32
COMPILERS = 2  # threads
YOUNG = 50_000  # objects between two garbage collections
BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@dataclass(frozen=True)
class Progress:
    """What the hook of `check` is told: once a chunk, or once a theorem if several processes work."""

    theorem: str
    done: int  # instances done, all theorems together
    total: int  # instances to do, all theorems together
    result: TheoremResult | None = None  # of the theorem, when it is complete
    left: float | None = None  # seconds, on a process of one's own: measured on what was compiled and run so far
    measured: bool = False  # nothing is left to compile, and something of everything has been run


@dataclass(frozen=True)
class _Job:
    """One (theorem, shape) with its share of the instances."""

    theorem: Theorem
    shape: Hashable
    index: int  # of the shape
    instances: int
    seed: int
    process: DecisionSamplingProcess | None = None  # a user's own; a random one for each instance by default
    stored: str | None = None  # extreme of the one instance that was stored

    @property
    def chunk(self) -> int:
        if self.process is not None and _is_network(self.shape):
            return min(OWN_CHUNK, self.instances)
        return min(CHUNK if getattr(self.shape, "share", 1.0) > LARGE else FEW, self.instances)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Extremes that instances take turns in; none on a user's own process, which is what it is."""
        return () if self.process is not None else self.theorem.kinds(self.shape)

    def kind(self, index: int) -> str | None:
        """The extreme of the instance of that number; None: an ordinary one."""
        number = int(extremes.turn(index, len(self.kinds)))
        return self.stored if number < 0 else self.kinds[number]

    def key(self) -> jax.Array:
        """Instance i of a shape is drawn from `fold_in(key(), i)`, however many instances are run."""
        base = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(self.theorem.id.encode()))
        return jax.random.fold_in(base, self.index)

    def draw(self, key: jax.Array, index: jax.Array | int) -> Any:
        """The instance of that number."""
        drawn = self.theorem.draw(jax.random.fold_in(key, index), self.shape, self.process)
        return self.theorem.extreme(drawn, extremes.turn(index, len(self.kinds)), self.kinds)

    def program(self, key: jax.Array, index: jax.Array) -> Any:
        """Claims and controls of the instances of those numbers."""
        return jax.vmap(lambda i: self.theorem.measure(self.shape, self.draw(key, i)))(index)

    def compile(self) -> tuple[Any, float]:
        """(executable, seconds); scopes are per thread, so compiler threads need their own."""
        start = time.perf_counter()
        with exact():
            executable = compile_quickly(self.program, self.key(), jnp.arange(self.chunk))
        return executable, time.perf_counter() - start

    def timed(self, executable: Any, start: int) -> tuple[Any, float]:
        """(one chunk, seconds)."""
        began = time.perf_counter()
        return self.run(executable, start), time.perf_counter() - began

    def begin(self) -> tuple[Any, float, tuple[Any, float]]:
        """(executable, seconds, its first chunk with its seconds)."""
        executable, seconds = self.compile()
        return executable, seconds, self.timed(executable, 0)

    def run(self, executable: Any, start: int) -> Any:
        """One chunk, cut to the instances that were asked for."""
        with exact():
            out = jax.device_get(executable(self.key(), jnp.arange(start, start + self.chunk)))
        return jax.tree.map(lambda x: x[: self.instances - start], out)


def _is_network(shape: Hashable) -> bool:
    return getattr(shape, "network", False)


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
    """Few garbage collections, and of these few full ones: they walk all that tracing has made, which mostly stays."""
    before = gc.get_threshold()
    gc.set_threshold(max(YOUNG, before[0]), before[1], 10 * before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _jobs(
    theorem: Theorem,
    instances: int,
    seed: int,
    *,
    quick: bool = False,
    process: DecisionSamplingProcess | None = None,
) -> list[_Job]:
    """Spread the instances over the shapes: evenly, but fewer on what costs far more."""
    shapes = theorem.shapes if process is None else theorem.on_process(theorem, shape_of(process), process)
    shapes = shapes[:1] if quick else shapes
    weights = [getattr(shape, "share", 1.0) for shape in shapes]
    if process is not None and len(shapes) > 1:
        weights = [w * (OWN_SHARE if _is_network(shape) else 1.0) for w, shape in zip(weights, shapes, strict=True)]
    ends = [round(instances * sum(weights[: i + 1]) / sum(weights)) for i in range(len(shapes))]
    shares = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    pairs = zip(shapes, shares, strict=True)
    return [_Job(theorem, shape, i, n, seed, process) for i, (shape, n) in enumerate(pairs) if n > 0]


class _Part(NamedTuple):
    """What one chunk says about a claim or a control, instance by instance."""

    job: _Job
    index: np.ndarray  # i[n]: numbers of the instances
    kind: np.ndarray  # their extremes; None for an ordinary one
    error: np.ndarray  # f[n]: infinite if it was not finite
    margin: np.ndarray | None = None

    def among(self, kind: str | None) -> _Part:
        """The instances of one kind, without margins."""
        rows = np.array([k == kind for k in self.kind], bool)
        return _Part(self.job, self.index[rows], self.kind[rows], self.error[rows])

    def without(self, spared: np.ndarray, claim: Claim) -> _Part:
        """What is asked of a claim: of an equation with a margin only the margin is spared."""
        margin = None if self.margin is None else self.margin[~spared]
        if claim.error is not None and claim.margin is not None:
            return self._replace(margin=margin)
        return _Part(self.job, self.index[~spared], self.kind[~spared], self.error[~spared], margin)


def _worst(parts: Sequence[_Part]) -> tuple[float, Worst]:
    """The largest error and where it was seen; of parts that are not all empty."""
    part = max((p for p in parts if p.error.size), key=lambda p: p.error.max())
    at = int(part.error.argmax())
    return float(part.error[at]), Worst(str(part.job.shape), int(part.index[at]), part.job.index)


@dataclass
class _Accumulator:
    """Results of one theorem while its chunks come in."""

    theorem: Theorem
    controls_required: bool = True
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    instances: int = 0
    deciding: int = 0
    extremes: Counter[str] = field(default_factory=Counter)
    claims: dict[str, list[_Part]] = field(default_factory=dict)
    controls: dict[str, list[_Part]] = field(default_factory=dict)

    def add(self, job: _Job, start: int, out: Any, seconds: float = 0.0) -> None:
        claims, controls = out
        self.run_seconds += seconds
        index = np.arange(start, min(start + job.chunk, job.instances))
        kind = np.array([job.kind(int(i)) for i in index], object)
        for claim in self.theorem.claims:
            if claim.name not in claims:
                continue
            error, margin = claims[claim.name]
            part = _Part(job, index, kind, np.where(np.isfinite(error), error, np.inf), margin)
            spared = [k is not None and self.theorem.spares(claim.name, k, job.shape) for k in kind]
            self.claims.setdefault(claim.name, []).append(part.without(np.array(spared), claim))
        for name, error in controls.items():
            # One that breaks down rejects nothing; at an extreme none is asked to.
            part = _Part(job, index, kind, np.where(np.isfinite(error), error, -np.inf))
            self.controls.setdefault(name, []).append(part.among(None))
        self.instances += index.size
        self.deciding += index.size * (getattr(extremes.plain(job.shape), "rounds", 1) >= 2)
        self.extremes.update(k for k in kind if k is not None)

    def _claims(self) -> Iterator[ClaimResult]:
        for claim in self.theorem.claims:
            parts = [p for p in self.claims.get(claim.name, []) if p.error.size]
            if not parts:  # applies to none of the shapes that were run
                continue
            error, worst = _worst(parts)
            margins = [p.margin for p in parts if p.margin is not None and p.margin.size]
            smallest = float(np.min(np.concatenate(margins))) if margins else None
            # Random processes have no ties, a given one may: then an inequality holds up to rounding.
            strict = claim.strict and bool(margins) and self.controls_required
            yield ClaimResult(claim.name, error, claim.tolerance, smallest, strict, worst)

    def _extremes(self) -> Iterator[ExtremeResult]:
        """For each extreme the claim that came closest to its tolerance."""
        for name, count in sorted(self.extremes.items(), key=lambda item: list(extremes.EXTREMES).index(item[0])):
            found = []
            for claim in self.theorem.claims:
                parts = [p.among(name) for p in self.claims.get(claim.name, [])]
                if any(p.error.size for p in parts):
                    found.append(ExtremeResult(name, count, claim.name, *_worst(parts), claim.tolerance))
            if found:  # else no claim is asked of it
                yield max(found, key=lambda result: result.relative)

    def result(self) -> TheoremResult:
        controls = []
        for control in self.theorem.controls:
            parts = [p.error for p in self.controls.get(control.name, []) if p.error.size]
            if parts:
                error = np.concatenate(parts)
                controls.append(ControlResult(control.name, error.size, float(error.min()), control.claim.tolerance))
        return TheoremResult(
            self.theorem.about,
            self.instances,
            tuple(self._claims()),
            tuple(controls),
            self.compile_seconds,
            self.run_seconds,
            self.controls_required,
            self.deciding,
            tuple(self._extremes()),
        )


def _here(
    theorems: Sequence[Theorem], instances: int, seed: int, *, quick: bool, threads: int = COMPILERS
) -> Generator[Progress]:
    """In this process: the next programs compile while one runs."""
    _load_blas()
    done, total = 0, instances * len(theorems)
    with _rare_collections(), ThreadPoolExecutor(threads) as pool:
        try:
            jobs = [(theorem, _jobs(theorem, instances, seed, quick=quick)) for theorem in theorems]
            plan = [(theorem, [(job, pool.submit(job.compile)) for job in its]) for theorem, its in jobs]
            for theorem, compiling in plan:
                found = _Accumulator(theorem)
                for job, future in compiling:
                    executable, seconds = future.result()
                    found.compile_seconds += seconds
                    for first in range(0, job.instances, job.chunk):
                        found.add(job, first, *job.timed(executable, first))
                        done += min(job.chunk, job.instances - first)
                        result = found.result() if found.instances == instances else None
                        yield Progress(theorem.id, done, total, result)
        finally:
            pool.shutdown(cancel_futures=True)


def _own(
    theorems: Sequence[Theorem], instances: int, seed: int, *, quick: bool, process: DecisionSamplingProcess
) -> Generator[Progress]:
    """On one process: a first chunk of everything, which says how long the rest takes, then the rest."""
    _load_blas()
    jobs = [job for t in theorems for job in _jobs(t, instances, seed, quick=quick, process=process)]
    found = {t.id: _Accumulator(t, controls_required=False) for t in theorems}
    chunks = [range(job.chunk, job.instances, job.chunk) for job in jobs]  # after the first of each
    total, executables, rest = instances * len(theorems), [], []

    def progress(job: _Job, left: float, *, measured: bool) -> Progress:
        its = found[job.theorem.id]
        result = its.result() if its.instances == instances else None
        done = sum(x.instances for x in found.values())
        return Progress(job.theorem.id, done, total, result, left, measured)

    with _rare_collections(), ThreadPoolExecutor(COMPILERS) as pool:
        try:
            spent = 0.0
            for job, future in [(job, pool.submit(job.begin)) for job in jobs]:
                executable, seconds, (out, ran) = future.result()
                executables.append(executable)
                found[job.theorem.id].compile_seconds += seconds
                found[job.theorem.id].add(job, 0, out, ran)
                # Those to come are taken to be like those so far, in seconds of all threads.
                n = len(executables)
                spent += seconds + ran
                rest.append(ran * len(chunks[n - 1]))
                left = spent / n * (len(jobs) - n) + sum(rest) / n * len(jobs)
                yield progress(job, left / COMPILERS, measured=n == len(jobs))
            left = sum(rest)
            for job, executable, its, expected in zip(jobs, executables, chunks, rest, strict=True):
                for first, future in [(first, pool.submit(job.timed, executable, first)) for first in its]:
                    out, ran = future.result()
                    found[job.theorem.id].add(job, first, out, ran)
                    left -= expected / len(its)
                    yield progress(job, left / COMPILERS, measured=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _one(name: str, instances: int, seed: int, quick: bool) -> TheoremResult:
    """In a worker; one thread compiles while the programs before run."""
    (*_, last) = _here(select(name), instances, seed, quick=quick, threads=1)
    assert last.result is not None
    return last.result


def _elsewhere(
    theorems: Sequence[Theorem], instances: int, seed: int, *, quick: bool, workers: int
) -> Generator[Progress]:
    """By several processes: tracing the programs, half of a cold run, holds the interpreter's lock."""
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would leave behind
    largest_first = sorted(theorems, key=lambda t: len(t.shapes) * (len(t.claims) + len(t.controls)), reverse=True)
    with ProcessPoolExecutor(min(workers, len(theorems)), mp_context=context) as pool:
        try:
            futures = [pool.submit(_one, t.id, instances, seed, quick) for t in largest_first]
            for i, future in enumerate(as_completed(futures)):
                result = future.result()
                yield Progress(result.id, instances * (i + 1), instances * len(theorems), result)
        finally:
            pool.shutdown(cancel_futures=True)


def check(
    ids: str | Sequence[str] | None = None,
    *,
    process: DecisionSamplingProcess | None = None,
    instances: int = DEFAULT_INSTANCES,
    seed: int = 0,
    quick: bool = False,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Check theorems on random instances.

    Args:
      ids: which ones, e.g. `"T3"` or `("T1", "T3")`; all of them by default.
      process: check on this process, with random policies, the theorems whose requirements it meets. Prompts of
        probability 0 are left out. Controls are reported but not required, and strict inequalities hold up to their
        tolerance: a process can be too special to tell a wrong variant from a right one, and can have ties.
      instances: random instances per theorem, spread over its shapes.
      seed: of every draw; the same seed gives the same numbers.
      quick: only the first shape of each theorem, which saves most of the compilation.
      workers: processes that share the theorems out, with the same numbers; one of them for a process of one's own.
      progress: called after every chunk of instances, or after every theorem if there are several workers.

    Raises:
      InputError: for an unknown theorem, instances < 1, a seed outside of 0..2^32-1, a process that is too large or one
        whose cost is.
    """
    theorems = select(ids)
    whole = isinstance(instances, int) and not isinstance(instances, bool) and instances >= 1
    require(whole, "instances", instances, "at least 1")
    require_memory("instances", instances, INSTANCE_BYTES * instances * len(theorems))
    require_seed("seed", seed)
    skipped: dict[str, tuple[str, ...]] = {}
    left_out = 0
    if process is not None:
        require(isinstance(process, DecisionSamplingProcess), "process", type(process).__name__, "a process")
        with exact():  # else float64 would be cut to float32
            process = process.checked()
        asked, process = process.num_prompts, occurring(process)
        left_out = asked - process.num_prompts
        require(
            process.num_trajectories <= OWN_LIMIT,
            "number of trajectories of the process",
            process.num_trajectories,
            f"at most {OWN_LIMIT}, for energies need a Fisher matrix over all contexts",
        )
        require(
            float(process.cost) * (process.rounds - 1) <= OWN_COST,
            "cost of the process",
            float(process.cost),
            f"at most {OWN_COST:.0f} for all attempts together: rewards in [0, 1] would be lost in its rounding",
        )
        skipped = {t.id: t.unmet(process) for t in theorems if t.unmet(process)}
        theorems = tuple(t for t in theorems if t.id not in skipped)
    start, results = time.perf_counter(), {}
    if process is not None:
        steps = _own(theorems, instances, seed, quick=quick, process=process)
    elif workers > 1 and len(theorems) > 1:
        steps = _elsewhere(theorems, instances, seed, quick=quick, workers=workers)
    else:
        steps = _here(theorems, instances, seed, quick=quick)
    with closing(steps):
        for step in steps:
            if step.result is not None:
                results[step.theorem] = step.result
            if progress is not None:
                progress(step)
    found = [results[t.id] for t in theorems]
    return numeric_report(seed, instances, found, time.perf_counter() - start, skipped, left_out)


def worst_instance(result: TheoremResult, seed: int, *, instances: int, quick: bool = False) -> dict[str, Any]:
    """The instance with the largest error relative to its tolerance, for `instance_file`; arguments as of `check`."""
    (theorem,) = select(result.id)
    claim = max(result.claims, key=lambda c: c.worst_error / c.tolerance if c.tolerance > 0 else c.worst_error)
    at = claim.worst
    with exact():
        job = next(j for j in _jobs(theorem, instances, seed, quick=quick) if j.index == at.shape_index)
        extreme = job.kind(at.index)
        origin = {"seed": seed, "shape": at.shape, "index": at.index, "extreme": extreme, "claim": claim.name}
        return instance_file.encode(theorem, job.shape, job.draw(job.key(), at.index), origin)


def check_instance(file: Path | dict[str, Any], ids: str | Sequence[str] | None = None) -> Report:
    """Check one stored instance.

    Args:
      file: instance file, or its JSON values.
      ids: the theorem that it must be of, if given.

    Raises:
      InputError: if it is not an instance of that theorem.
    """
    data = read_json(file, "instance-file") if isinstance(file, Path) else file
    start = time.perf_counter()
    with exact():
        theorem, shape, instance = instance_file.decode(data)
        allowed = f"{theorem.id}, as in the instance file"
        require(ids is None or select(ids) == (theorem,), "theorem", ids, allowed)
        out = jax.device_get(jax.jit(lambda x: theorem.measure(shape, x))(instance))
    origin = data.get("origin")
    extreme = origin.get("extreme") if isinstance(origin, dict) else None
    require(extreme is None or extreme in extremes.EXTREMES, "origin.extreme", extreme, ["null", *extremes.EXTREMES])
    found = _Accumulator(theorem, controls_required=extreme is None)
    found.add(_Job(theorem, shape, 0, 1, 0, stored=extreme), 0, jax.tree.map(lambda x: np.asarray(x)[None], out))
    found.compile_seconds = time.perf_counter() - start  # nearly all of it
    return numeric_report(0, 1, (found.result(),), found.compile_seconds)

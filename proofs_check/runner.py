"""Runs theorem checks on random instances: one compiled program a (theorem, shape), instances batched by `vmap`.

Programs are compiled ahead of time by a few threads (compilation dominates a default run and releases the
interpreter), then run one after the other. Everything happens on the CPU in a float64 scope; no JAX setting changes.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import require
from proofs_check.registry import select
from proofs_check.report import ClaimResult, ControlResult, Report, TheoremResult, Worst
from proofs_check.theorem import Theorem

CHUNK = 32  # instances a call, whatever their number: bounds memory
DEFAULT_INSTANCES = 256
COMPILERS = 2  # threads
# Compiling costs more than running, and without optimisation a third as much.
COMPILER_OPTIONS: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}


@dataclass(frozen=True)
class Progress:
    """What the hook of `run` is told, once a chunk."""

    theorem: str
    done: int  # instances done, all theorems together
    total: int  # instances to do, all theorems together


Measurements = tuple[dict[str, tuple[np.ndarray, np.ndarray | None]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class _Job:
    """One (theorem, shape) with its share of the instances."""

    theorem: Theorem
    shape: Hashable
    index: int  # of the shape
    instances: int
    seed: int

    @property
    def chunk(self) -> int:
        return min(CHUNK, self.instances)

    def key(self) -> jax.Array:
        """Instance i of a shape is drawn from `fold_in(key(), i)`, however many instances are run."""
        base = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(self.theorem.id.encode()))
        return jax.random.fold_in(base, self.index)

    def program(self, key: jax.Array, index: jax.Array) -> Any:
        """Check and controls of the instances of those numbers."""

        def one(i: jax.Array) -> Any:
            instance = self.theorem.draw(jax.random.fold_in(key, i), self.shape)
            setting = self.theorem.prepare(instance)
            return self.theorem.check(setting), self.theorem.control(setting)

        return jax.vmap(one)(index)


def _exact_scope(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run in float64 on the CPU; scopes are per thread, so compiler threads need it too."""

    def scoped(*args: Any) -> Any:
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            return function(*args)

    return scoped


@_exact_scope
def _compile(job: _Job) -> tuple[Any, float]:
    """(executable, seconds)."""
    start = time.perf_counter()
    lowered = jax.jit(job.program).lower(job.key(), jnp.arange(job.chunk))
    try:
        executable = lowered.compile(compiler_options=dict(COMPILER_OPTIONS))
    except jax.errors.JaxRuntimeError:  # an XLA that does not know an option; a real error comes again
        executable = lowered.compile()
    return executable, time.perf_counter() - start


@_exact_scope
def _chunk(job: _Job, executable: Any, start: int) -> Any:
    """One chunk, cut to the instances that were asked for."""
    out = jax.device_get(executable(job.key(), jnp.arange(start, start + job.chunk)))
    return jax.tree.map(lambda x: x[: job.instances - start], out)


def _jobs(theorem: Theorem, instances: int, seed: int) -> list[_Job]:
    """Spread the instances over the theorem's shapes as evenly as they go."""
    count = len(theorem.shapes)
    shares = [instances // count + (i < instances % count) for i in range(count)]
    pairs = zip(theorem.shapes, shares, strict=True)
    return [_Job(theorem, shape, i, n, seed) for i, (shape, n) in enumerate(pairs) if n > 0]


@dataclass
class _Accumulator:
    """Results of one theorem while its chunks come in."""

    theorem: Theorem
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    instances: int = 0
    claims: dict[str, list[tuple[str, int, Any]]] = field(default_factory=dict)
    controls: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, job: _Job, start: int, out: Any) -> None:
        claims, controls = out
        for name, measured in claims.items():
            self.claims.setdefault(name, []).append((str(job.shape), start, measured))
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
            shape, start, _ = parts[at]
            margins = [m.margin for _, _, m in parts if m.margin is not None]
            smallest = float(np.min(np.concatenate(margins))) if margins else None
            worst = Worst(shape, start + int(errors[at].argmax()))
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
            theorem.id,
            theorem.title,
            theorem.statement,
            theorem.provenance,
            self.instances,
            tuple(claims),
            tuple(controls),
            self.compile_seconds,
            self.run_seconds,
        )


def run(
    ids: Sequence[str] | None = None,
    instances: int = DEFAULT_INSTANCES,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Check theorems on random instances.

    Args:
      ids: which ones, e.g. `("T1", "T3")`; all of them by default.
      instances: random instances per theorem, spread over its shapes.
      seed: of every draw; the same seed gives the same numbers.
      progress: called after every chunk of instances.

    Raises:
      InputError: for an unknown theorem, instances < 1 or a seed outside of 0..2^32-1.
    """
    theorems = select(ids)
    require(instances >= 1, "instances", instances, "at least 1")
    require(0 <= seed < 2**32, "seed", seed, "0..2^32-1")
    results, done = [], 0
    start = time.perf_counter()
    with ThreadPoolExecutor(COMPILERS) as pool:
        try:
            plan: list[tuple[Theorem, list[tuple[_Job, Future]]]] = [
                (theorem, [(job, pool.submit(_compile, job)) for job in _jobs(theorem, instances, seed)])
                for theorem in theorems
            ]
            for theorem, jobs in plan:
                found = _Accumulator(theorem)
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
    return Report(seed, instances, tuple(results), time.perf_counter() - start)

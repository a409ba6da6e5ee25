"""Draws the batches, tests every estimator. One compiled program a process; float64 on the CPU, no setting changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import require
from dsjax.numerics import compile_quickly, exact
from dsjax.statistics import holm
from proofs_check.numerics import SUM
from proofs_check.registry import parts
from proofs_check.report import Report
from proofs_check.runner import COMPILERS, Progress
from proofs_check.statistical.estimator import Estimator
from proofs_check.statistical.hotelling import MeanTest, detectable, mean_test
from proofs_check.statistical.results import EstimatorResult
from proofs_check.statistical.settings import BATCH, SETTINGS, Setting

ESTIMATORS: tuple[Estimator, ...] = tuple(e for module in parts("statistical") for e in module.ESTIMATORS)

LEVEL = 0.001  # of the whole family
POWER = 0.9
DEFAULT_SAMPLES = 16_384  # batches
# At 256 batches a true mean of 26 coordinates, some of them of rarely visited contexts, is rejected at level 0.01 with
# probability 0.04: the tails are not normal yet. From 4096 on the size is right (measured in the tests).
FEWEST_SAMPLES = 4096
CHUNK = 256  # batches a call, whatever their number: bounds memory, and one program serves every run


@dataclass(frozen=True)
class Compiled:
    """What one process needs: exact vectors of its estimators, and the program that samples them."""

    setting: Setting
    estimators: tuple[Estimator, ...]
    exact: dict[str, dict[str, np.ndarray]]
    program: Any  # (setting, key, i32[CHUNK] batch numbers) -> {estimator: (sampled, control)}


def _exact(setting: Setting, estimators: tuple[Estimator, ...]) -> dict[str, dict[str, jax.Array]]:
    out = {}
    for e in estimators:
        expected = e.expected(setting)
        out[e.name] = {
            "expected": expected,
            "stated": e.stated(setting),
            "control": expected if e.control.expected is None else e.control.expected(setting),
            "direction": expected if e.direction is None else e.direction(setting),
        }
    return out


@lru_cache
def prepare(name: str) -> Compiled:
    """Compile the programs of the process of that name, once."""
    with exact():
        number = jax.random.key(list(SETTINGS).index(name))
        setting = compile_quickly(SETTINGS[name], number)(number)
        estimators = tuple(e for e in ESTIMATORS if e.setting == name)

        def program(setting: Setting, key: jax.Array, index: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
            def one(i: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
                traj = setting.batch(jax.random.fold_in(key, i))
                out = {}
                for e in estimators:
                    sampled = e.sample(setting, traj)
                    out[e.name] = (sampled, sampled if e.control.sample is None else e.control.sample(setting, traj))
                return out

            return jax.vmap(one)(index)

        enumerated = compile_quickly(lambda setting: _exact(setting, estimators), setting)
        compiled = compile_quickly(program, setting, jax.random.key(0), jnp.arange(CHUNK))
        return Compiled(setting, estimators, jax.device_get(enumerated(setting)), compiled)


def sample(
    compiled: Compiled, seed: int, samples: int, progress: Callable[[int], None] | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{estimator: (f[samples, p] sampled, f[samples, p] wrong variant)}; batch i of a seed is always the same."""
    chunks = []
    with exact():
        key = jax.random.fold_in(jax.random.key(seed), list(SETTINGS).index(compiled.setting.name))
        for first in range(0, samples, CHUNK):
            out = jax.device_get(compiled.program(compiled.setting, key, jnp.arange(first, first + CHUNK)))
            chunks.append(jax.tree.map(lambda x, first=first: x[: samples - first], out))
            if progress is not None:
                progress(min(CHUNK, samples - first))
    return jax.tree.map(lambda *x: np.concatenate(x), *chunks)


def tests(
    compiled: Compiled, sampled: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, tuple[MeanTest, MeanTest]]:
    """{estimator: (its test, its control's test)}."""
    out = {}
    for name, (right, wrong) in sampled.items():
        exact = compiled.exact[name]
        out[name] = mean_test(right, exact["expected"]), mean_test(wrong, exact["control"])
    return out


def _biases(test: MeanTest, direction: np.ndarray, decider: int, level: float) -> tuple[float, float]:
    """Relative biases that the test of that level sees with probability POWER: of all, and of the part of pi_d."""
    if not (0 < test.degrees < test.samples and np.isfinite(test.p_value)):
        return float("nan"), float("nan")
    noncentrality = detectable(level, test.degrees, test.samples - test.degrees, POWER)
    of_decider = np.where(np.arange(direction.size) < direction.size - decider, 0.0, direction)
    return test.relative_bias(direction, noncentrality), test.relative_bias(of_decider, noncentrality)


def _rows(
    compiled: Compiled, found: dict[str, tuple[MeanTest, MeanTest]], seconds: float
) -> dict[str, EstimatorResult]:
    """A row an estimator, before Holm's correction."""
    rows = {}
    level = LEVEL / len(ESTIMATORS)
    for e in compiled.estimators:
        test, control = found[e.name]
        exact = compiled.exact[e.name]
        decider = compiled.setting.params["decision"].size // 2 if e.decider is None else e.decider
        bias, decision_bias = _biases(test, exact["direction"], decider, level)
        # Sums of a few hundred trajectories, as in the theorem checks; relative where a value exceeds 1.
        gap = np.max(np.abs(exact["expected"] - exact["stated"])) / max(1.0, np.max(np.abs(exact["stated"])))
        rows[e.name] = EstimatorResult(
            estimator=e.name,
            theorem=e.theorem,
            provenance=e.provenance,
            claim=e.claim,
            setting=str(compiled.setting),
            statistic=test.statistic,
            degrees=test.degrees,
            p_value=test.p_value,
            p_holm=test.p_value,
            detectable_bias=bias,
            detectable_decision_bias=decision_bias,
            exact_gap=float(gap),
            tolerance=SUM,
            control=e.control.name,
            control_statistic=control.statistic,
            control_p=control.p_value,
            level=LEVEL,
            control_level=level,
            samples=test.samples,
            trajectories=test.samples * BATCH,
            seconds=seconds / len(compiled.estimators),
        )
    return rows


def _timed(name: str) -> tuple[Compiled, float]:
    start = time.perf_counter()
    compiled = prepare(name)
    return compiled, time.perf_counter() - start


def run_statistical(
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    samples: int = DEFAULT_SAMPLES,
) -> Report[EstimatorResult]:
    """Sampled estimators against exact expectations: Hotelling's test of each, Holm's correction over all of them.

    Args:
      seed: of every batch; the processes and policies are fixed.
      progress: called after every chunk of batches.
      samples: independent batches of every estimator; more of them see smaller biases.

    Raises:
      InputError: for samples < 4096 or a seed outside of 0..2^32-1.
    """
    require(0 <= seed < 2**32, "seed", seed, "0..2^32-1")
    require(samples >= FEWEST_SAMPLES, "samples", samples, f"at least {FEWEST_SAMPLES} batches")
    began, done, rows = time.perf_counter(), 0, {}
    with ThreadPoolExecutor(COMPILERS) as pool:
        try:
            futures = {name: pool.submit(_timed, name) for name in SETTINGS}
            for name, future in futures.items():
                compiled, compile_seconds = future.result()
                start = time.perf_counter()

                def advance(count: int, name: str = name) -> None:
                    nonlocal done
                    done += count
                    if progress is not None:
                        progress(Progress(name, done, samples * len(SETTINGS)))

                found = tests(compiled, sample(compiled, seed, samples, advance))
                rows |= _rows(compiled, found, compile_seconds + time.perf_counter() - start)
        finally:
            pool.shutdown(cancel_futures=True)
    found = [rows[e.name] for e in ESTIMATORS]
    adjusted = holm([row.p_value for row in found])
    finished = tuple(replace(row, p_holm=p) for row, p in zip(found, adjusted, strict=True))
    settings = {"seed": seed, "samples": samples, "level": LEVEL, "power": POWER}
    return Report(EstimatorResult, finished, time.perf_counter() - began, settings)

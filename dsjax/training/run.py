"""A long training run: one directory, restarted with the same command until it is done, bit for bit as if in one go.

Layout of a run directory:

    config.json        what was asked for
    start/             the parameters that `init_from` gave
    checkpoints/STEP/  see `dsjax.training.checkpoints`
    metrics.jsonl      rows {"kind": "train" | "gradient" | "evaluation", "step", ..}: no clock, so reproducible
    timings.jsonl      one row a checkpoint
    starts.json        versions and device of every start, and which checkpoints it could not use
    tensorboard/       event files, if asked for
    bad_batch.npz      the batch of an update whose loss or gradient was not finite
    result.json        when it is done

Why resuming changes nothing: problems and samples of an update depend on the two keys and its number; the same compiled
chunk of updates runs from the same multiples of `chunk`; and metrics are cut back to where the checkpoint was written.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.config import differences, to_dict
from dsjax.errors import InputError, require
from dsjax.evaluation.components import measure
from dsjax.evaluation.samples import evaluation_sets
from dsjax.io import memory_of_machine, read_json, require_memory, write_json
from dsjax.objectives import resolve
from dsjax.policies.base import Params
from dsjax.tasks import Problems
from dsjax.training.checkpoints import Checkpoints, Facts, Restored, StorageError, Trees
from dsjax.training.config import BASE, MAY_CHANGE, TrainConfig
from dsjax.training.divergence import FILE, DivergedError, all_finite, not_finite, save_batch
from dsjax.training.multihost import all_max, local_copy, lost_processes_named, on_process_0, require_same
from dsjax.training.records import EventFiles, Row, RowFile, require_tensorboard
from dsjax.training.run_directory import RunDirectory, provenance
from dsjax.training.sources import SOURCES
from dsjax.training.start import KIND, read_params, start_params
from dsjax.training.step import TrainState, adam, computed, draw, make_gradient_measure, make_train_steps

FORMAT = 1
IN_DISTRIBUTION = "in"
# No compiled program depends on these (nor on how long the run is).
NOT_COMPILED = ("seed", "init_from", "init_checkpoint", "keep", "evaluation_problems", "tensorboard")
FRESH: Facts = {"measured": -1, "metrics_bytes": 0, "timings_bytes": 0, "best": None, "evaluations": {}}


class Stopped(Exception):  # noqa: N818  it is no error
    """The run was asked to stop, has written a checkpoint and can be continued."""

    def __init__(self, signal: int, step: int, updates: int):
        self.signal = signal
        super().__init__(f"stopped after update {step} of {updates}, all of it saved; the same command continues")


class Program:
    """What a configuration computes; compiled when first used.

    Runs that differ in what no program depends on, such as seed and start, share one (`program_of`).
    """

    def __init__(self, config: TrainConfig):
        arm = config.objective_of
        self.config = config
        self.layout = config.layout()
        self.optimizer = adam(config.step_size, config.clip_norm)
        self.source, self.objective = SOURCES[arm.source], resolve(arm.objective, arm.options_at(config.task_of.length))
        self.policy = computed(config.setting, config.policy, self.layout)
        self.chunk = self.steps(config.chunk)
        self.measure = make_gradient_measure(config.setting, config.policy, self.source, self.objective, self.layout)
        # One program instead of one for each shape; copied, because training uses its state up.
        self._create = jax.jit(lambda p, *keys: TrainState.create(jax.tree.map(jnp.copy, p), self.optimizer, *keys))

    def steps(self, updates: int) -> Callable[[TrainState, Params], tuple[TrainState, dict[str, jax.Array]]]:
        """A compiled call of that many updates."""
        arm, config = self.config.objective_of, self.config
        parts = (config.setting, config.policy, self.source, self.objective, self.optimizer, updates, arm.component)
        critic: dict[str, Any] = {"value_weight": arm.value_weight, "value_options": arm.value_options}
        return make_train_steps(*parts, layout=self.layout, frozen=arm.frozen, **critic)

    def state(self, config: TrainConfig, params: Params) -> TrainState:
        """The state of a run before its first update; arms with one seed share the stream of problems."""
        keys = config.key("base problems" if config.arm == BASE else "problems"), config.key(config.arm)
        return self.layout.place(self._create(params, *keys))


_program = lru_cache(maxsize=32)(Program)


def program_of(config: TrainConfig) -> Program:
    """The program of a configuration, compiled once in this process for all seeds, starts and lengths of a run."""
    same: dict[str, Any] = dict.fromkeys(("updates", "evaluate_every", "checkpoint_every"), config.chunk)
    fields = {f.name: f.default for f in dataclasses.fields(config) if f.name in NOT_COMPILED}
    return _program(dataclasses.replace(config, **fields, **same))


def trees_of(state: TrainState) -> Trees:
    """A state as a checkpoint holds it: the parameters apart, for those who want only them."""
    return {"params": state.params, "training": {k: v for k, v in vars(state).items() if k != "params"}}


def state_of(trees: Trees) -> TrainState:
    """The inverse of `trees_of`."""
    return TrainState(params=trees["params"], **trees["training"])


def _shapes(state: TrainState) -> Trees:
    """What to restore: shapes and shardings, so that two states are never in memory; keys are tiny, and stay."""

    def shape(x: jax.Array) -> Any:
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if key else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(shape, trees_of(state))


def run(
    config: TrainConfig,
    directory: str | Path,
    *,
    override: Collection[str] = (),
    advance: Callable[[int, Row], None] = lambda step, row: None,
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], int | None] = lambda: None,
) -> dict[str, Any]:
    """Start the run of this directory, or continue it, until it is done; returns what `result.json` holds.

    Of several processes each must call it, with the same configuration and directory.

    Args:
      config: settings.
      directory: of the run.
      override: fields of `config` whose value may replace the one that the run had; of `MAY_CHANGE`.
      advance: called with the number of updates done and the metrics of the last chunk, if any.
      say: called with a line for the user, as about a damaged checkpoint.
      stop: called between chunks; anything but None (the number of a signal), in any process, saves and leaves.

    Raises:
      InputError: for a configuration that cannot be used, here or at all; see also `RunDirectory.open`.
      Stopped: after a checkpoint, when `stop` says so.
      DivergedError: if loss, gradient or parameters are not finite.
      StorageError: if something cannot be written, as when the disk is full.
      LostProcessError: if another process is gone.
    """
    for name in override:
        require(name in MAY_CHANGE, "override", name, MAY_CHANGE)
    require_same({**to_dict(config), "run": str(Path(directory).absolute()), "override": sorted(override)})
    if config.tensorboard:
        on_process_0(require_tensorboard)
    # All that can be refused is refused first: a directory belongs to the configuration that opened it.
    _require_room(config)
    program = program_of(config)
    sets = evaluation_sets(config.task_of, config.task_of.splits, config.evaluation_problems)
    start = Path(directory) / "start"
    new = config.init_from is not None and not on_process_0(start.exists)
    given = read_params(config, program.layout) if new else None
    run_directory = RunDirectory(directory, KIND, to_dict(config), override)
    on_process_0(lambda: _open(run_directory))
    try:
        with lost_processes_named():
            base_params = start_params(config, start, given, program.layout)
            return _Run(config, program, run_directory.path, sets, base_params, advance, say, stop).go()
    except OSError as error:
        raise error if isinstance(error, StorageError) else StorageError(f"{directory}: {error}") from error
    finally:
        run_directory.close()


def _require_room(config: TrainConfig) -> None:
    """Refuse what the machines that train together cannot hold.

    Raises:
      InputError: then.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    here = sum(s["bytes_limit"] for s in stats) if all("bytes_limit" in s for s in stats) else memory_of_machine()
    for field, (value, needed) in config.least_bytes().items():
        require_memory(field, value, needed, here * jax.process_count())


def _open(run_directory: RunDirectory) -> None:
    """Open it; an error says how to override what may change."""
    try:
        run_directory.open()
    except InputError as error:
        if error.field not in MAY_CHANGE:
            raise
        allowed = f"{error.allowed}; or --override {error.field}={json.dumps(error.received)}"
        raise InputError(error.field, error.received, allowed) from error


@dataclass
class _Run:
    """The state of a run between its chunks; see `run` for the last three."""

    config: TrainConfig
    program: Program
    path: Path
    sets: dict[str, Problems]
    base_params: Params
    advance: Callable[[int, Row], None]
    say: Callable[[str], None]
    stop: Callable[[], int | None]

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.path / "checkpoints", self.config.keep)
        self.checkpoints.clean()
        # The arrays of this state are freed before others take their place.
        self.like = _shapes(self.program.state(self.config, self.base_params))
        self.step, self.facts, self.saved = 0, copy.deepcopy(FRESH), (-1, -1)
        self._resume()
        self.metrics = self.timings = self.events = None  # but in process 0
        on_process_0(self._open_files)
        self._clock = (time.perf_counter(), self.step)

    def _open_files(self) -> None:
        self.metrics = RowFile(self.path / "metrics.jsonl", self.facts["metrics_bytes"])
        self.timings = RowFile(self.path / "timings.jsonl", self.facts["timings_bytes"])
        if self.config.tensorboard:
            self.events = EventFiles(self.path / "tensorboard", self.metrics.rows())

    def _restore(self) -> Restored | None:
        file = self.path / "metrics.jsonl"

        def usable(facts: Facts) -> str | None:
            size = file.stat().st_size if file.exists() else 0
            lost = facts["metrics_bytes"] - size
            return f"metrics.jsonl lacks the last {lost} bytes that belong to it" if lost > 0 else None

        return self.checkpoints.restore(self.like, usable)

    def _resume(self) -> None:
        restored, skipped = self._restore(), []
        if restored is None:
            self.state = self.program.state(self.config, self.base_params)
        else:
            self.step, self.facts, self.state = restored.step, restored.facts, state_of(restored.trees)
            self.saved, skipped = (self.step, self.facts["measured"]), restored.skipped
            allowed = f"at least {self.step}, the updates that are done"
            require(self.config.updates >= self.step, "updates", self.config.updates, allowed)
            for reason in skipped:
                self.say(f"Checkpoint skipped: {reason}.")
            self.say(f"Continuing after update {self.step} of {self.config.updates}.")
        on_process_0(lambda: self._note_start(skipped))

    def _note_start(self, skipped: list[str]) -> None:
        file = self.path / "starts.json"
        starts = read_json(file, "starts.json") if file.exists() else []
        whole = isinstance(starts, list) and all(isinstance(s, dict) and "provenance" in s for s in starts)
        require(whole, "starts.json", str(file), "a list of the starts of this run")
        now = {"step": self.step, "time": time.time(), "skipped": skipped, "provenance": provenance()}
        if starts:
            changed = differences(starts[-1]["provenance"], now["provenance"])
            if changed:
                what = ", ".join(f"{name} {before!r} -> {after!r}" for name, before, after in changed)
                self.say(f"Not bit for bit what an uninterrupted run would give: {what}.")
        write_json(file, [*starts, now])

    def go(self) -> dict[str, Any]:
        """Until it is done."""
        try:
            self.advance(self.step, {})
            while True:
                signal = all_max(self.stop())
                best = self.facts["best"]
                if signal is None and self.step % self.config.evaluate_every == 0:
                    self._measure()
                done = self.step >= self.config.updates
                due = self.step - self.saved[0] >= self.config.checkpoint_every or self.saved[0] < 0
                if due or done or signal is not None or self.facts["best"] != best:
                    self._save()
                if signal is not None:
                    raise Stopped(signal, self.step, self.config.updates)
                if done:
                    return on_process_0(self._write_result)
                self._update()
        finally:
            for file in (self.metrics, self.timings, self.events):
                if file is not None:
                    file.close()

    def _record(self, row: Row) -> None:
        if self.metrics is not None:
            self.metrics.record(row)
        if self.events is not None:
            self.events.record(row)

    def _update(self) -> None:
        self.state, metrics = self.program.chunk(self.state, self.base_params)
        host = {name: np.asarray(value) for name, value in metrics.items()}
        good = np.isfinite(host["loss"]) & np.isfinite(host["gradient_norm"])
        if not good.all():
            self._diverged(self.step + int(np.flatnonzero(~good)[0]))
        self.step += self.config.chunk
        row = {name: float(value.mean()) for name, value in host.items()}
        self._record({"kind": "train", "step": self.step, **row})
        self.advance(self.step, row)

    def _measure(self) -> None:
        """Gradients and evaluation at this update, once."""
        if self.facts["measured"] >= self.step:
            return
        values = {k: float(v) for k, v in self.program.measure(self.state, self.base_params).items()}
        values = {k: v if np.isfinite(v) else None for k, v in values.items()}
        self._record({"kind": "gradient", "step": self.step, **values})
        params = local_copy(self.state.params)
        measured = on_process_0(lambda: self._evaluate(params))  # alone: which is the best must not differ
        accuracy = measured[IN_DISTRIBUTION]["accuracy"]
        best = self.facts["best"]
        evaluations = {**self.facts["evaluations"], "last": measured}
        evaluations.setdefault("start", measured)
        if accuracy is not None and (best is None or accuracy > best["accuracy"]):
            best = {"step": self.step, "accuracy": accuracy}
            evaluations["best"] = measured
        self.facts = {**self.facts, "measured": self.step, "best": best, "evaluations": evaluations}

    def _evaluate(self, params: Params) -> dict[str, Row]:
        measured = {}
        for split, problems in self.sets.items():
            arguments = (self.config.policy, params, self.config.task_of, problems, self.config.key("evaluation"))
            found = measure(*arguments, self.config.rounds)
            measured[split] = {name: e.to_json()["value"] for name, e in found.items()}
            self._record({"kind": "evaluation", "step": self.step, "split": split, **measured[split]})
        return measured

    def _rows_on_disk(self) -> dict[str, int]:
        """Where they end now."""
        assert self.metrics is not None
        assert self.timings is not None
        now = time.perf_counter()
        seconds, updates = now - self._clock[0], self.step - self._clock[1]
        if updates:
            rate = {"seconds": round(seconds, 3), "updates_per_second": round(updates / seconds, 3)}
            self.timings.record({"step": self.step, "time": time.time(), **rate})
        self._clock = (now, self.step)
        return {"metrics_bytes": self.metrics.sync(), "timings_bytes": self.timings.sync()}

    def _save(self) -> None:
        """A checkpoint of this update, unless there is one; the metrics it counts on are on disk before it."""
        if self.saved == (self.step, self.facts["measured"]):
            return
        if not all_finite(self.state.params):
            self._diverged(self.step - 1)
        self.facts |= on_process_0(self._rows_on_disk)
        best = self.facts["best"]
        try:
            self.checkpoints.save(self.step, trees_of(self.state), self.facts, best["step"] if best else None)
        except StorageError as error:
            kept = f"that of update {self.saved[0]} is intact" if self.saved[0] >= 0 else "there is none yet"
            raise StorageError(f"checkpoint of update {self.step}: {error}; {kept}") from error
        self.saved = (self.step, self.facts["measured"])

    def _diverged(self, step: int) -> None:
        """Go back to the last checkpoint, repeat the updates before the bad one, and say what is bad in it.

        Raises:
          DivergedError: always.
        """
        del self.state
        restored = self._restore()
        if restored is None:
            raise DivergedError(f"update {step} is not finite, and there is no checkpoint")
        state = state_of(restored.trees)
        chunks, rest = divmod(step - restored.step, self.config.chunk)
        for _ in range(chunks):
            state, _ = self.program.chunk(state, self.base_params)
        if rest:
            state, _ = self.program.steps(rest)(state, self.base_params)
        program = self.program
        redraw = jax.jit(lambda s, b: draw(self.config.setting, program.policy, program.source, s, b, program.layout))
        traj = redraw(state, self.base_params)
        batch = local_copy(traj)
        on_process_0(lambda: save_batch(self.path / FILE, batch, step))
        arm = self.config.objective_of
        value_options = arm.value_options if arm.value_weight > 0 else None
        bad = not_finite(program.policy, state, traj, program.objective, value_options)
        what = ", ".join(bad) or "the parameters after it"
        raise DivergedError(
            f"update {step}: not finite: {what}. Its batch is in {self.path / FILE}, the last good checkpoint is of"
            f" update {restored.step}"
        )

    def _write_result(self) -> dict[str, Any]:
        file = self.path / "result.json"
        if file.exists():
            stored = read_json(file, "result.json")
            if isinstance(stored, dict) and stored.get("updates") == self.step:
                return stored
        result = {"format": FORMAT, "provenance": provenance(), "config": to_dict(self.config), "updates": self.step}
        result |= {name: self.facts[name] for name in ("best", "evaluations")}
        write_json(file, result)
        return result

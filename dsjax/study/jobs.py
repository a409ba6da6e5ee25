"""Studies: lists of independent jobs on a directory, claimed by a lock, resumable, merged from files.

Layout of a study's directory:

    config.json                 which study and preset; another one is refused
    jobs.json                   the list of jobs
    jobs/NAME/config.json       what the job is; another one under the same name is refused
    jobs/NAME/.lock             held by the process that works on it, freed by the system when that process ends
    jobs/NAME/stages/..         what the job keeps for itself (`dsjax.training.run_directory.RunDirectory`)
    jobs/NAME/progress.json     {"fraction", "seconds"}
    jobs/NAME/error.json        the last attempt failed; tried again by the next run
    jobs/NAME/result.json       {"result", "seconds", "provenance"}; its presence means that the job is done
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dsjax.errors import InputError, require
from dsjax.io import read_json, write_json
from dsjax.objectives import import_function
from dsjax.training.run_directory import RunDirectory, opened, provenance

FORMAT = 1
DONE, RUNNING, FAILED, WAITING, TODO = "done", "running", "failed", "waiting", "todo"
_NAME = re.compile(r"[\w=+-][\w.=+-]*(/[\w=+-][\w.=+-]*)*", re.ASCII)
_SECONDS_BETWEEN_WRITES = 1.0
_SECONDS_TO_START = 30.0

Progress = Callable[[float, float], None]


def _plain(name: str, value: Any) -> Any:
    """The value as JSON gives it back."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(name, value, f"plain JSON data ({error})") from error


@dataclass(frozen=True)
class Job:
    """One piece of work, whose result depends on its kind, options and needs only.

    Attributes:
      name: parts of letters, digits and `_.=+-`, joined by `/`, e.g. `rloo/seed-0`; its folder below `jobs/`.
      kind: the work, as `module:function`; called as `function(options, directory, needs, progress)` with the options,
        the job's own opened `RunDirectory`, `{name: Done}` of its needs, and a hook `(done, total)`; returns plain
        JSON data. It may be called again after a kill: whatever it keeps as stages of the directory is then there.
      options: plain JSON data.
      needs: names of jobs whose results it reads.
      work: amount of work in any unit, for progress bars only.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    work: float = 1.0

    def __post_init__(self) -> None:
        ok = isinstance(self.name, str) and _NAME.fullmatch(self.name) is not None
        require(ok, "job name", self.name, "parts of letters, digits and _.=+-, none starting with a dot, joined by /")
        require(isinstance(self.options, Mapping), f"options of job {self.name}", self.options, "named values")
        require(self.work > 0, f"work of job {self.name}", self.work, "> 0")
        object.__setattr__(self, "options", _plain(f"options of job {self.name}", dict(self.options)))
        object.__setattr__(self, "needs", tuple(self.needs))


@dataclass(frozen=True)
class Done:
    """A need of a job: what it returned, and the folder with whatever else it wrote."""

    result: Any
    folder: Path


@dataclass(frozen=True)
class Status:
    """How far a job is; `seconds` counts every process that worked on it, `fraction` is 0..1."""

    job: Job
    state: str
    fraction: float
    seconds: float
    message: str = ""


Work = Callable[[Mapping[str, Any], RunDirectory, Mapping[str, Done], Progress], Any]


def _require_list(jobs: Sequence[Job]) -> dict[str, Job]:
    named: dict[str, Job] = {}
    for job in jobs:
        require(job.name not in named, "job name", job.name, "each job once")
        named[job.name] = job
    require(bool(named), "jobs", [], "at least one job")
    for job in jobs:
        for need in job.needs:
            require(need in named, f"needs of job {job.name}", need, named)
        parts = job.name.split("/")
        for n in range(1, len(parts)):
            above = "/".join(parts[:n])
            require(above not in named, "job name", job.name, f"one that is not inside of job {above}")
    try:
        TopologicalSorter({job.name: job.needs for job in jobs}).prepare()
    except CycleError as error:
        raise InputError("needs", " -> ".join(error.args[1]), "jobs that do not wait for each other") from error
    return named


def _in_use(error: InputError) -> bool:
    return isinstance(error.__cause__, BlockingIOError)


def _claim(directory: RunDirectory, tries: int = 2) -> bool:
    """Whether this process holds the directory now; False if another does."""
    for left in reversed(range(tries)):
        try:
            directory.open()
            return True
        except InputError as error:
            if not _in_use(error):
                raise
        if left:  # whoever asks for the state of a job holds it for an instant
            time.sleep(0.05)
    return False


class Study:
    """A list of jobs on a directory that any number of processes may work on at the same time."""

    def __init__(self, path: str | Path, name: str, preset: str, jobs: Sequence[Job]):
        """Describe it; nothing is written.

        Raises:
          InputError: for an empty list, a duplicate or nested name, an unknown need, or needs in a circle.
        """
        self.path = Path(path)
        self.name = name
        self.preset = preset
        self.jobs = _require_list(jobs)

    def start(self) -> None:
        """Create its directory, or check that the one there holds this study; jobs may be added to it later.

        Raises:
          InputError: if the directory holds something else, or results of a job with other options.
        """
        directory = RunDirectory(self.path, "study", {"study": self.name, "preset": self.preset})
        end = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                with opened(directory):
                    for name in self.jobs:
                        own = self._directory(name)
                        if _claim(own):
                            own.close()
                    data = {"format": FORMAT, "study": self.name, "preset": self.preset}
                    write_json(self.path / "jobs.json", {**data, "jobs": [asdict(j) for j in self.jobs.values()]})
                return
            except InputError as error:
                if not _in_use(error) or time.monotonic() >= end:
                    raise
                time.sleep(0.05)  # another process is just starting it

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """The study that a directory holds.

        Raises:
          InputError: if it holds none.
        """
        data = read_json(Path(path) / "jobs.json", "study directory", "one that `dsjax study run` has made")
        try:
            require(data["format"] == FORMAT, "study directory", str(path), f"format {FORMAT}")
            return cls(path, data["study"], data["preset"], [Job(**job) for job in data["jobs"]])
        except InputError:
            raise
        except (KeyError, TypeError) as error:
            raise InputError("study directory", str(path), f"one that `dsjax study run` has made ({error})") from error

    def folder(self, name: str) -> Path:
        """Folder of a job."""
        return self.path / "jobs" / name

    def _directory(self, name: str) -> RunDirectory:
        job = self.jobs[name]
        config = {"kind": job.kind, "options": job.options, "needs": list(job.needs)}
        return RunDirectory(self.folder(name), "job", config)

    def _read(self, name: str, file: str) -> dict[str, Any] | None:
        path = self.folder(name) / file
        return read_json(path, f"job {name}") if path.exists() else None

    def done(self, name: str) -> bool:
        """Whether a job is complete."""
        return (self.folder(name) / "result.json").exists()

    def record(self, name: str) -> dict[str, Any]:
        """`{"result", "seconds", "provenance"}` of a complete job."""
        return read_json(self.folder(name) / "result.json", f"job {name}")

    def fraction(self, name: str) -> float:
        """Part of a job that is done, as it last reported it, 0..1."""
        return 1.0 if self.done(name) else (self._read(name, "progress.json") or {"fraction": 0.0})["fraction"]

    def attempts(self, name: str) -> int:
        """How often the job has failed since it was last done."""
        return (self._read(name, "error.json") or {"attempt": 0})["attempt"]

    def failures(self) -> dict[str, int]:
        """`attempts` of all jobs: a run keeps it from its start, to try every earlier failure once."""
        return {name: self.attempts(name) for name in self.jobs}

    def ready(self, before: Mapping[str, int]) -> list[str]:
        """Jobs that are not done, have what they need, and have not failed since `before`."""
        done = {name for name in self.jobs if self.done(name)}
        open_jobs = [job for job in self.jobs.values() if job.name not in done and done.issuperset(job.needs)]
        return [job.name for job in open_jobs if self.attempts(job.name) <= before.get(job.name, 0)]

    def attempt(self, name: str, before: int, progress: Callable[[float], None]) -> str | None:
        """Claim a job and do it.

        Args:
          name: of the job; its needs are done.
          before: failures that do not count: it is not tried again if there are more.
          progress: called with the fraction that is done.

        Returns:
          DONE or FAILED, also if another process got there first; None if another process holds it.
        """
        directory = self._directory(name)
        if not _claim(directory):
            return None
        try:
            if self.done(name):
                return DONE
            if self.attempts(name) > before:
                return FAILED
            return self._do(self.jobs[name], directory, progress)
        finally:
            directory.close()

    def _do(self, job: Job, directory: RunDirectory, progress: Callable[[float], None]) -> str:
        folder = self.folder(job.name)
        earlier = (self._read(job.name, "progress.json") or {"seconds": 0.0})["seconds"]
        start = written = time.perf_counter()

        def seconds() -> float:
            return round(earlier + time.perf_counter() - start, 3)

        def report(done: float, total: float) -> None:
            nonlocal written
            fraction = min(max(done / total, 0.0), 1.0) if total else 0.0
            progress(fraction)
            if time.perf_counter() - written >= _SECONDS_BETWEEN_WRITES:
                written = time.perf_counter()
                write_json(folder / "progress.json", {"fraction": round(fraction, 4), "seconds": seconds()})

        try:
            function: Work = import_function(f"kind of job {job.name}", job.kind)
            needs = {need: Done(self.record(need)["result"], self.folder(need)) for need in job.needs}
            result = function(dict(job.options), directory, needs, report)
            data = {"result": result, "seconds": seconds(), "provenance": provenance()}
            write_json(folder / "result.json", data)
        except Exception as error:
            self._fail(job.name, error, "".join(traceback.format_exception(error)), seconds())
            return FAILED
        (folder / "error.json").unlink(missing_ok=True)
        return DONE

    def _fail(self, name: str, error: Exception, text: str, seconds: float) -> None:
        data = {"attempt": self.attempts(name) + 1, "error": type(error).__name__, "message": str(error)}
        write_json(self.folder(name) / "error.json", {**data, "traceback": text, "seconds": seconds})

    def fail(self, name: str, error: Exception) -> None:
        """Note that whoever worked on a job died of it, if nobody works on it now."""
        directory = self._directory(name)
        if _claim(directory):
            try:
                self._fail(name, error, "", (self._read(name, "progress.json") or {"seconds": 0.0})["seconds"])
            finally:
                directory.close()

    def status(self) -> list[Status]:
        """The state of every job, in the order of the list."""
        return [self._status(job) for job in self.jobs.values()]

    def _status(self, job: Job) -> Status:
        if self.done(job.name):
            return Status(job, DONE, 1.0, self.record(job.name)["seconds"])
        progress = self._read(job.name, "progress.json") or {"fraction": 0.0, "seconds": 0.0}
        error = self._read(job.name, "error.json")
        if self._held(job.name):
            return Status(job, RUNNING, progress["fraction"], progress["seconds"])
        if error is not None:
            message = f"{error['error']}: {error['message']}"
            return Status(job, FAILED, progress["fraction"], error["seconds"], message)
        state = TODO if all(self.done(need) for need in job.needs) else WAITING
        return Status(job, state, progress["fraction"], progress["seconds"])

    def _held(self, name: str) -> bool:
        directory = self._directory(name)
        try:
            directory.open()
        except InputError as error:
            return _in_use(error)
        directory.close()
        return False


def merge(study: Study) -> dict[str, Any]:
    """All results in one dictionary: the same whatever ran the jobs, where, and in which order.

    Returns:
      `{"study", "preset", "jobs": {name: {"options", "result"}}, "missing": [name, ..]}`, names in sorted order.
    """
    names = sorted(study.jobs)
    jobs = {
        name: {"options": dict(study.jobs[name].options), "result": study.record(name)["result"]}
        for name in names
        if study.done(name)
    }
    missing = [name for name in names if name not in jobs]
    return {"study": study.name, "preset": study.preset, "jobs": jobs, "missing": missing}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the fields of `new` in their place, inside of objects too."""
    both = {
        k: _changed(old[k], v) for k, v in new.items() if isinstance(v, Mapping) and isinstance(old.get(k), Mapping)
    }
    return {**old, **new, **both}


@dataclass(frozen=True)
class Definition:
    """A study as data: the file `study.json` of a folder.

    Attributes:
      name: of the study.
      jobs: `module:function` that turns the settings of a preset into a list of `Job`.
      presets: settings by name; the first is the default. One with `extends` starts from those of another and changes
        some, inside of objects too: `{"extends": "cpu", "first_seed": 5, "train": {"model_width": 128}}`.
      settings: every other field of the file: settings of all presets, each of which may change them.
      hypotheses: what the study tests, written down before it runs.
      report: None, or `module:function` called as `function(merged, directory, definition)` with `merge`'s
        dictionary, the study's directory and this definition; what it returns, a dictionary, is stored as `report` in
        `results.json`, and its `tables` ([{"title", "columns", "rows"}], of texts) are printed.
    """

    name: str
    jobs: str
    presets: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    hypotheses: tuple[Any, ...] = ()
    report: str | None = None

    @classmethod
    def read(cls, path: str | Path) -> Definition:
        """Read a study's file, by default `study.json` of a folder.

        Raises:
          InputError: if it cannot be read or lacks a field.
        """
        file = Path(path) if str(path).endswith(".json") else Path(path) / "study.json"
        data = read_json(file, "study", "a readable study.json, or a folder with one")
        require(isinstance(data, dict), "study", str(file), "a JSON object with named fields")
        for name in ("name", "jobs"):
            require(isinstance(data.get(name), str), f"{name} in {file}", data.get(name), "a text")
        presets = data.get("presets")
        ok = isinstance(presets, dict) and presets and all(isinstance(p, dict) for p in presets.values())
        require(bool(ok), f"presets in {file}", presets, "at least one preset: an object with named settings")
        hypotheses = tuple(data.get("hypotheses", ()))
        known = ("name", "jobs", "presets", "hypotheses", "report")
        settings = {name: value for name, value in data.items() if name not in known}
        return cls(data["name"], data["jobs"], presets, settings, hypotheses, data.get("report"))

    def settings_of(self, preset: str) -> dict[str, Any]:
        """The settings of all presets, with those of the preset in their place.

        Raises:
          InputError: for an unknown preset, or presets that extend each other in a circle.
        """
        require(preset in self.presets, "preset", preset, self.presets)
        chain = [preset]
        while "extends" in self.presets[chain[-1]]:
            base = self.presets[chain[-1]]["extends"]
            allowed = [name for name in self.presets if name not in chain]
            require(isinstance(base, str) and base in allowed, f"presets.{chain[-1]}.extends", base, allowed)
            chain.append(base)
        changed: dict[str, Any] = {}
        for name in reversed(chain):
            changed = _changed(changed, {k: v for k, v in self.presets[name].items() if k != "extends"})
        return {**self.settings, **changed}

    def changed(self, preset: str, changes: Mapping[str, Any]) -> Definition:
        """The same with only this preset, and these changes to its settings, inside of objects too."""
        return replace(self, presets={preset: _changed(self.settings_of(preset), changes)})

    def study(self, preset: str | None = None, out: str | Path | None = None) -> Study:
        """The study of a preset (the first by default) on a directory (`runs/NAME-PRESET` by default).

        Raises:
          InputError: for an unknown preset, or a list of jobs that `Study` refuses.
        """
        preset = next(iter(self.presets)) if preset is None else preset
        jobs = import_function("jobs of the study", self.jobs)(self.settings_of(preset))
        ok = isinstance(jobs, list | tuple) and all(isinstance(job, Job) for job in jobs)
        require(ok, "jobs of the study", self.jobs, "a function that returns a list of Job")
        return Study(Path("runs") / f"{self.name}-{preset}" if out is None else out, self.name, preset, jobs)

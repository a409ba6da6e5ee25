"""Studies: lists of jobs on a directory, each done once, resumable, merged from files.

Layout of a study's directory:

    .lock                       held by the one run that works on it, freed by the system when that run ends
    config.json                 which study and preset; another one is refused
    jobs.json                   the list of jobs
    copied/                     a job of another study, on its way (`Study.adopt`)
    jobs/NAME/config.json       what the job is; another one under the same name is refused
    jobs/NAME/running           a worker has begun it; stays if that worker is killed, until it is begun again
    jobs/NAME/progress.json     {"fraction", "seconds"}
    jobs/NAME/error.json        the last try failed; the next run tries again
    jobs/NAME/result.json       {"result", "seconds", "provenance"}, written last: where it is whole, the job is done

What else a job keeps in its folder is its own business, and is there when it is begun again.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dsjax.config import is_finite, require_positive
from dsjax.errors import InputError, require
from dsjax.io import inside, interpreted, parse_json, read_json, require_name, write_json
from dsjax.own import call, import_function, told
from dsjax.training.run_directory import RunDirectory, in_use, opened, provenance

FORMAT = 1
POWER = "power.json"
DONE, RUNNING, FAILED, WAITING, TODO = "done", "running", "failed", "waiting", "todo"
_SECONDS_BETWEEN_WRITES = 1.0

Progress = Callable[[float, float], None]


def plain(name: str, value: Any) -> Any:
    """The value as JSON gives it back.

    Raises:
      InputError: if it is none that JSON has, or has NaN or infinity in it.
    """
    try:
        return parse_json(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(name, value, f"plain JSON data, finite numbers ({error})") from error


@dataclass(frozen=True)
class Job:
    """One piece of work, whose result depends on its kind, options and needs only.

    Attributes:
      name: parts of letters, digits and `_.=+-`, joined by `/`, e.g. `rloo/seed-0`; its folder below `jobs/`.
      kind: the work, as `module:function`; called as `function(options, directory, needs, progress)` with the options,
        the job's own `RunDirectory`, `{name: Done}` of its needs, and a hook `(done, total)`; returns plain
        JSON data. It may be called again after a kill: whatever it keeps in the directory is then there.
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
        inside(Path(), self.name, "job name")
        named = isinstance(self.kind, str) and ":" in self.kind
        require(named, f"kind of job {self.name}", self.kind, "module:function")
        require(isinstance(self.options, Mapping), f"options of job {self.name}", self.options, "named values")
        words = isinstance(self.needs, list | tuple) and all(isinstance(need, str) for need in self.needs)
        require(words, f"needs of job {self.name}", self.needs, "a list of names of jobs")
        require_positive(f"work of job {self.name}", self.work)
        object.__setattr__(self, "options", plain(f"options of job {self.name}", dict(self.options)))
        object.__setattr__(self, "needs", tuple(self.needs))


@dataclass(frozen=True)
class Done:
    """A need of a job: what it returned, and the folder with whatever else it wrote."""

    result: Any
    folder: Path


@dataclass(frozen=True)
class Status:
    """How far a job is; `seconds` counts all tries, `fraction` is 0..1."""

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


class Study:
    """A list of jobs on a directory that one run at a time works on."""

    def __init__(self, path: str | Path, name: str, preset: str, jobs: Sequence[Job]):
        """Describe it; nothing is written.

        Raises:
          InputError: for a name that is none, an empty list, a duplicate or nested job, an unknown need, or needs in a
            circle.
        """
        require_name("name of the study", name)
        require_name("preset", preset)
        self.path = Path(path)
        self.name = name
        self.preset = preset
        self.jobs = _require_list(jobs)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold its directory for a run, create it or check that it holds this study; jobs may be added to it later.

        Raises:
          InputError: if another run holds it, or it holds something else, or results of a job with other options.
        """
        with opened(RunDirectory(self.path, "study", {"study": self.name, "preset": self.preset})):
            for name in self.jobs:
                self._directory(name).settle()
                self._mark(name).unlink(missing_ok=True)  # of a run that was killed
            data = {"format": FORMAT, "study": self.name, "preset": self.preset}
            write_json(self.path / "jobs.json", {**data, "jobs": [asdict(job) for job in self.jobs.values()]})
            yield

    def adopt(self, other: Study, needs: bool = True) -> list[str]:
        """Copy the jobs that the other study has done just as this one would; returns the names of those copied.

        So the parts of a study share their bases, and arms that are in two of them. A job is the same if its name, kind
        and options are, and all that it needs.

        Args:
          other: the other study, of the same kind of machine where results are to be the same bit for bit.
          needs: also those that need others.

        Raises:
          InputError: if nothing is the same.
        """
        same: list[str] = []
        for name in TopologicalSorter({job.name: job.needs for job in self.jobs.values()}).static_order():
            job, its = self.jobs[name], other.jobs.get(name)
            fits = its is not None and replace(job, work=its.work) == its
            if fits and other.done(name) and {*job.needs} <= {*same}:
                same += [name] if needs or not job.needs else []
        require(bool(same), "reuse", str(other.path), "a study's directory with jobs that this one has too, done")
        with self.held():
            left = [name for name in same if not self.done(name)]
            for name in left:
                part = self.path / "copied"  # in its place only when it is whole
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(other.folder(name), part)
                shutil.rmtree(self.folder(name))
                part.rename(self.folder(name))
        return left

    def start(self) -> None:
        """`held` for a moment: afterwards the directory is there, for `load` and `status`."""
        with self.held():
            pass

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """The study that a directory holds.

        Raises:
          InputError: if it holds none.
        """
        allowed = "one that `dsjax study run` has made"
        data = read_json(Path(path) / "jobs.json", "study directory", allowed)
        with interpreted("study directory", Path(path), allowed):
            require(data["format"] == FORMAT, "study directory", str(path), f"format {FORMAT}")
            return cls(path, data["study"], data["preset"], [Job(**job) for job in data["jobs"]])

    def folder(self, name: str) -> Path:
        """Folder of a job."""
        return inside(self.path / "jobs", name, "job name")

    def _mark(self, name: str) -> Path:
        return self.folder(name) / "running"

    def _directory(self, name: str) -> RunDirectory:
        job = self.jobs[name]
        config = {"kind": job.kind, "options": job.options, "needs": list(job.needs)}
        return RunDirectory(self.folder(name), "job", config)

    def _read(self, name: str, file: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A file that the engine wrote, or `fields` where it is not there or not whole: numbers are numbers."""
        try:
            data = read_json(self.folder(name) / file)
        except InputError:
            return dict(fields)
        whole = isinstance(data, dict) and data.keys() >= fields.keys()
        numbers = [field for field, value in fields.items() if isinstance(value, float)]
        return data if whole and all(is_finite(data[field]) for field in numbers) else dict(fields)

    def _progress(self, name: str) -> dict[str, float]:
        return self._read(name, "progress.json", {"fraction": 0.0, "seconds": 0.0})

    def done(self, name: str) -> bool:
        """Whether a job is complete: its result is there and whole."""
        fields = {"result": None, "seconds": 0.0, "provenance": None}
        return isinstance(self._read(name, "result.json", fields)["provenance"], dict)

    def record(self, name: str) -> dict[str, Any]:
        """`{"result", "seconds", "provenance"}` of a complete job."""
        return read_json(self.folder(name) / "result.json", f"job {name}")

    def fraction(self, name: str) -> float:
        """Part of a job that is done, as it last reported it, 0..1."""
        return 1.0 if self.done(name) else self._progress(name)["fraction"]

    def left(self) -> list[str]:
        """Jobs that are not done, each after those that it needs; else in the order of the list."""
        out: list[str] = []
        waiting = {name: set(job.needs) for name, job in self.jobs.items() if not self.done(name)}
        while waiting:
            out.append(next(name for name, needs in waiting.items() if needs.isdisjoint(waiting)))
            del waiting[out[-1]]
        return out

    def begun(self, name: str) -> bool:
        """Whether a worker of this run works on it, or died while it did."""
        return self._mark(name).exists()

    def do(self, name: str, progress: Callable[[float], None] = lambda fraction: None) -> str:
        """Do a job whose needs are done, for the run that holds the study; returns DONE or FAILED.

        Args:
          name: of the job.
          progress: called with the fraction that is done.
        """
        job, folder = self.jobs[name], self.folder(name)
        earlier = self._progress(name)["seconds"]
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

        self._mark(name).touch()
        try:
            function: Work = import_function(f"kind of job {name}", job.kind)
            needs = {need: Done(self.record(need)["result"], self.folder(need)) for need in job.needs}
            result = function(dict(job.options), self._directory(name), needs, report)
            data = {"result": result, "seconds": seconds(), "provenance": provenance()}
            write_json(folder / "result.json", data)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a job that asks Python to exit has failed too
            self.fail(name, error, seconds())
            return FAILED
        finally:
            self._mark(name).unlink(missing_ok=True)
        (folder / "error.json").unlink(missing_ok=True)
        return DONE

    def fail(self, name: str, error: BaseException, seconds: float | None = None) -> None:
        """Note what ended a job, after how many seconds in all; None: as it last reported."""
        seconds = self._progress(name)["seconds"] if seconds is None else seconds
        message = told(error) if isinstance(error, SystemExit) else str(error)
        data = {"error": type(error).__name__, "message": message, "seconds": seconds}
        write_json(self.folder(name) / "error.json", {**data, "traceback": "".join(traceback.format_exception(error))})

    def status(self) -> list[Status]:
        """The state of every job, in the order of the list."""
        held = in_use(self.path)
        return [self._status(job, held) for job in self.jobs.values()]

    def _status(self, job: Job, held: bool) -> Status:
        if self.done(job.name):
            return Status(job, DONE, 1.0, self.record(job.name)["seconds"])
        progress = self._progress(job.name)
        error = self._read(job.name, "error.json", {"error": None, "message": None, "seconds": 0.0})
        if held and self.begun(job.name):
            return Status(job, RUNNING, progress["fraction"], progress["seconds"])
        if error["error"] is not None:
            message = f"{error['error']}: {error['message']}"
            return Status(job, FAILED, progress["fraction"], error["seconds"], message)
        state = TODO if all(self.done(need) for need in job.needs) else WAITING
        return Status(job, state, progress["fraction"], progress["seconds"])


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
      power: by preset, what can be told before it runs: the file `power.json` beside study.json, if there is one
        (`dsjax study power` writes it); settings `power` of the preset.
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
    power: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Definition:
        """Read a study's file, by default `study.json` of a folder.

        Raises:
          InputError: if it cannot be read or lacks a field.
        """
        file = Path(path) if str(path).endswith(".json") else Path(path) / "study.json"
        data = read_json(file, "study", "a readable study.json, or a folder with one")
        require(isinstance(data, dict), "study", str(file), "a JSON object with named fields")
        require(isinstance(data.get("jobs"), str), f"jobs in {file}", data.get("jobs"), "a text")
        require_name(f"name in {file}", data.get("name"))
        presets = data.get("presets")
        ok = isinstance(presets, dict) and presets and all(isinstance(p, dict) for p in presets.values())
        require(bool(ok), f"presets in {file}", presets, "at least one preset: an object with named settings")
        for preset in presets:
            require_name(f"preset in {file}", preset)
        hypotheses, report = data.get("hypotheses", []), data.get("report")
        require(isinstance(hypotheses, list), f"hypotheses in {file}", hypotheses, "a list")
        require(report is None or isinstance(report, str), f"report in {file}", report, "module:function, or null")
        known = ("name", "jobs", "presets", "hypotheses", "report")
        settings = {name: value for name, value in data.items() if name not in known}
        beside = file.with_name(POWER)
        power = read_json(beside, "power") if file.name == "study.json" and beside.exists() else {}
        require(isinstance(power, dict), "power", str(beside), "an object with named presets")
        return cls(data["name"], data["jobs"], presets, settings, tuple(hypotheses), report, power)

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
        known = {"power": self.power[preset]["cells"]} if preset in self.power else {}
        return {**self.settings, **known, **changed}

    def changed(self, preset: str, changes: Mapping[str, Any]) -> Definition:
        """The same with only this preset, and these changes to its settings, inside of objects too."""
        return replace(self, presets={preset: _changed(self.settings_of(preset), changes)})

    def study(self, preset: str | None = None, out: str | Path | None = None) -> Study:
        """The study of a preset (the first by default) on a directory (`runs/NAME-PRESET` by default).

        Raises:
          InputError: for an unknown preset, or a list of jobs that `Study` refuses.
        """
        preset = next(iter(self.presets)) if preset is None else preset
        settings = self.settings_of(preset)
        jobs = call("jobs of the study", self.jobs, import_function("jobs of the study", self.jobs), settings)
        if self.report is not None:
            import_function("report of the study", self.report)  # better now than after the jobs
        ok = isinstance(jobs, list | tuple) and all(isinstance(job, Job) for job in jobs)
        require(ok, "jobs of the study", self.jobs, "a function that returns a list of Job")
        return Study(Path("runs") / f"{self.name}-{preset}" if out is None else out, self.name, preset, jobs)

"""`dsjax study run`, `status`, `report` and `compare`: a study's jobs, how far they are, and their merged results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dsjax.cli.terminal import parse_settings, require_writable, writing
from dsjax.errors import require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.study import jobs


@dataclass(frozen=True)
class Run:
    """Do the jobs that are not done yet; the same command again continues, and may run many times at once."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder with a study.json (format: docs/jobs.md)."""
    preset: str | None = None
    """One of its presets; the first by default."""
    out: Path | None = None
    """Directory of the study; runs/NAME-PRESET by default."""
    engine: Literal["here", "dask"] = "here"
    """One job at a time in this process, or workers that Dask starts."""
    workers: int | None = None
    """Dask: start this many worker processes on this machine."""
    address: str | None = None
    """Dask: address or scheduler file (.json) of a running scheduler."""
    resources: tuple[str, ...] = field(default=())
    """Dask: what a job takes of the workers' resources, e.g. GPU=1."""
    wait: bool = True
    """When other processes hold all jobs that are left: wait for them, or end."""


@dataclass(frozen=True)
class State:
    """Print a table of the jobs: state, progress, seconds, needs."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder with a study.json."""
    preset: str | None = None
    """One of its presets; the first by default."""
    out: Path | None = None
    """Directory of the study; runs/NAME-PRESET by default."""


@dataclass(frozen=True)
class Report:
    """Merge the results of all jobs that are done into results.json of the study's directory."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder with a study.json."""
    preset: str | None = None
    """One of its presets; the first by default."""
    out: Path | None = None
    """Directory of the study; runs/NAME-PRESET by default."""


@dataclass(frozen=True)
class Compare:
    """Count which intervals of two runs of one study, with different seeds, overlap."""

    one: Annotated[Path, tyro.conf.Positional]
    """results.json of a run, or the directory that it is in."""
    other: Annotated[Path, tyro.conf.Positional]
    """That of the other."""
    json: Path | None = None
    """Write what is found to this file (format: docs/jobs.md)."""


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[State, tyro.conf.subcommand("status")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
)


@dataclass(frozen=True)
class Study:
    """A study is a list of independent jobs: do them here or on many machines, see how far they are, merge results."""

    do: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Command]]
    """What to do with it."""


@contextmanager
def told(study: jobs.Study, console: Console) -> Iterator[Callable[[str, str, float], None]]:
    """One bar over the whole study, with the time that is left, and a line for every job that ends."""
    from dsjax.study import jobs

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    shown = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)
    part = {name: study.fraction(name) * job.work for name, job in study.jobs.items()}
    ended = {name for name in study.jobs if study.done(name)}
    total = sum(job.work for job in study.jobs.values())
    task = shown.add_task(f"{len(ended)}/{len(part)} jobs", total=total)
    shown.update(task, completed=sum(part.values()))

    def notice(name: str, state: str, fraction: float) -> None:
        part[name] = fraction * study.jobs[name].work
        if state in (jobs.DONE, jobs.FAILED):
            shown.console.print(Text(f"{name}: {state}"))
            ended.update(other for other in part if study.done(other))  # other processes work on it too
            part.update((other, study.jobs[other].work) for other in ended)
        shown.update(task, completed=sum(part.values()), description=f"{len(ended)}/{len(part)} jobs")

    with shown:
        yield notice


def _run(command: Run, console: Console) -> int:
    from dsjax.cli.devices import keep_compiled_programs
    from dsjax.study import jobs
    from dsjax.study.engine import run_here, run_on_dask

    resources = parse_settings(command.resources)
    for name, value in resources.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        require(good, "resources", f"{name}={value}", "name=amount with an amount > 0, e.g. GPU=1")
    if command.engine == "here":
        for name in ("workers", "address", "resources"):
            given = getattr(command, name)
            require(given in (None, ()), name, given, "nothing, or engine dask")
    else:
        both = command.workers, command.address
        require(both.count(None) == 1, "workers and address", both, "one of them, for engine dask")
        require(command.workers is None or command.workers >= 1, "workers", command.workers, "an integer >= 1")
    study = jobs.Definition.read(command.path).study(command.preset, command.out)
    folder = keep_compiled_programs()
    if folder is not None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # for workers that the run starts
    study.start()
    with told(study, console) as notice:
        if command.engine == "here":
            run_here(study, notice, command.wait)
        else:
            cluster = command.address if command.workers is None else command.workers
            run_on_dask(study, cluster, resources, notice, command.wait)
    found = study.status()
    counts = {state: sum(s.state == state for s in found) for state in dict.fromkeys(s.state for s in found)}
    console.print(f"{study.path}: " + ", ".join(f"{n} {state}" for state, n in counts.items()), highlight=False)
    print_failures(study, found, console)
    return 1 if jobs.FAILED in counts else 0


def print_failures(study: jobs.Study, found: list[jobs.Status], console: Console) -> None:
    """A line and the file of the traceback for every job that has failed."""
    from dsjax.study import jobs

    for status in found:
        if status.state == jobs.FAILED:
            console.print(Text(f"{status.job.name}: {status.message}"))
            console.print(Text(f"  traceback: {study.folder(status.job.name) / 'error.json'}"))


def _load(command: State | Report, definition: jobs.Definition) -> jobs.Study:
    """The study as its directory holds it: its jobs, even if study.json has been edited since."""
    from dsjax.study import jobs

    asked = definition.study(command.preset, command.out)
    found = jobs.Study.load(asked.path)
    allowed = f"the directory of {asked.name}, preset {asked.preset}"
    require((found.name, found.preset) == (asked.name, asked.preset), "out", str(asked.path), allowed)
    return found


def _status(command: State, console: Console) -> int:
    from dsjax.study import jobs

    study = _load(command, jobs.Definition.read(command.path))
    found = study.status()
    table = Table("job", "state", "progress", "seconds", "needs", title=f"{study.name}, {study.preset}")
    for s in found:
        table.add_row(s.job.name, s.state, f"{100 * s.fraction:.0f} %", f"{s.seconds:.1f}", " ".join(s.job.needs))
    console.print(table)
    print_failures(study, found, console)
    return 0


def _report(command: Report, console: Console) -> int:
    from dsjax.io import write_json
    from dsjax.study import jobs
    from dsjax.study.results import NAME, collect

    definition = jobs.Definition.read(command.path)
    study = _load(command, definition)
    with console.status("Report: reading and resampling"):  # about a minute for a whole study
        results = collect(study, definition)
    file = study.path / NAME
    with writing("out", file):
        write_json(file, results, indent=None)
    print_tables(results.get("report", {}).get("tables", []), console)
    console.print(f"{file}: {len(results['jobs'])} of {len(study.jobs)} jobs", highlight=False)
    for name in results["missing"]:
        console.print(Text(f"missing: {name}"))
    return 1 if results["missing"] else 0


def print_tables(tables: list[dict[str, Any]], console: Console) -> None:
    """Tables of a report: {"title", "columns", "rows"}."""
    for data in tables:
        table = Table(*data["columns"], title=data["title"])
        for row in data["rows"]:
            table.add_row(*map(Text, row))
        console.print(table)


def _compare(command: Compare, console: Console) -> int:
    from dsjax.io import write_json
    from dsjax.study.agreement import agreement, tables
    from dsjax.study.results import read_results, report_of

    require_writable("json", command.json)
    reports, runs = [], []
    for name, path in (("one", command.one), ("other", command.other)):
        _, results = read_results(name, path)
        reports.append(report_of(results, name, path))
        runs.append({field: results.get(field) for field in ("study", "preset", "provenance", "missing")})
        runs[-1]["seconds"] = sum(results.get("seconds", {}).values())
    found = agreement(*reports)
    if command.json is not None:
        write_json(command.json, {"format": 1, "runs": runs, **found}, indent=None)
    print_tables(tables(found), console)
    return 0


def study(command: Study, console: Console) -> int:
    """Run `dsjax study ..`.

    Returns:
      Exit status: 1 if a job failed, or if results are missing from a report.

    Raises:
      InputError: for a study, directory or cluster that cannot be used.
    """
    do = command.do
    if isinstance(do, Run):
        return _run(do, console)
    if isinstance(do, Compare):
        return _compare(do, console)
    return _status(do, console) if isinstance(do, State) else _report(do, console)

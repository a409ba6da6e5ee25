"""`dsjax study ..`: a study's jobs, how far they are, their merged results; predictions and power before they run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from dsjax.cli.flags import Pairs, pairs
from dsjax.cli.terminal import Bars, print_tables, require_files, table, terminal, waiting, writing
from dsjax.errors import require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.study import jobs


def run(
    path: Positional[Path],
    *,
    preset: str | None = None,
    out: Path | None = None,
    workers: int | None = None,
    address: str | None = None,
    resources: Pairs = (),
    reuse: Path | None = None,
) -> int:
    """Do the jobs that are not done yet; the same command again continues.

    Args:
      path: Folder with a study.json (format: docs/jobs.md).
      preset: One of its presets; the first by default.
      out: Directory of the study; runs/NAME-PRESET by default.
      workers: Dask: start this many worker processes on this machine; by default jobs run here, one after the other.
      address: Dask: address or scheduler file (.json) of a running scheduler.
      resources: Dask: what a job takes of the workers' resources, e.g. GPU=1.
      reuse: Directory of another study: jobs that it has done just as this preset would are copied.
    """
    from dsjax.cli.devices import keep_compiled_programs
    from dsjax.study import jobs
    from dsjax.study.engine import run_here, run_on_dask

    amounts = {name: _amount(name, value) for name, value in pairs("resources", resources).items()}
    require(workers is None or workers >= 1, "workers", workers, "an integer >= 1")
    given = [value for value in (workers, address) if value is not None]
    require(len(given) < 2, "workers and address", given, "one of them")
    require(bool(given) or not resources, "resources", resources, "nothing, without workers or address")
    study = jobs.Definition.read(path).study(preset, out)
    folder = keep_compiled_programs()
    if folder is not None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # for workers that the run starts
    console = terminal()
    _reuse(study, reuse, console)
    study.start()  # so that a refusal is not buried under a bar
    with told(study, console) as notice:
        if given:
            run_on_dask(study, given[0], amounts, notice)
        else:
            run_here(study, notice)
    found = study.status()
    counts = {state: sum(s.state == state for s in found) for state in dict.fromkeys(s.state for s in found)}
    console.print(Text(f"{study.path}: " + ", ".join(f"{n} {state}" for state, n in counts.items())), soft_wrap=True)
    print_failures(study, found, console)
    return 1 if jobs.FAILED in counts else 0


def _reuse(study: jobs.Study, path: Path | None, console: Console, needs: bool = True) -> None:
    from dsjax.study import jobs

    if path is not None:
        copied = study.adopt(jobs.Study.load(path), needs)
        console.print(Text(f"{path}: {len(copied)} jobs copied"), soft_wrap=True)


def status(path: Positional[Path], *, preset: str | None = None, out: Path | None = None) -> int:
    """Print a table of the jobs: state, progress, seconds, needs.

    Args:
      path: Folder with a study.json.
      preset: One of its presets; the first by default.
      out: Directory of the study; runs/NAME-PRESET by default.
    """
    from dsjax.study import jobs

    study, console = _load(jobs.Definition.read(path), preset, out), terminal()
    found = study.status()
    shown = table(f"{study.name}, {study.preset}", "job", "state", "progress", "seconds", "needs")
    for i in (1, 4):
        shown.columns[i].justify = "left"
    for s in found:
        needs = s.job.needs if len(s.job.needs) < 2 else (s.job.needs[0], f"and {len(s.job.needs) - 1} more")
        shown.add_row(s.job.name, s.state, f"{100 * s.fraction:.0f} %", f"{s.seconds:.1f}", " ".join(needs))
    console.print(shown)
    print_failures(study, found, console)
    return 0


def report(path: Positional[Path], *, preset: str | None = None, out: Path | None = None) -> int:
    """Merge the results of all jobs that are done into the study's results.json.

    Args:
      path: Folder with a study.json.
      preset: One of its presets; the first by default.
      out: Directory of the study; runs/NAME-PRESET by default.
    """
    from dsjax.io import write_json
    from dsjax.study import jobs
    from dsjax.study.results import NAME, collect

    definition = jobs.Definition.read(path)
    study, console = _load(definition, preset, out), terminal()
    with waiting(console, "Report: reading and resampling"):  # about a minute for a whole study
        results = collect(study, definition)
    file = study.path / NAME
    with writing("out", file):
        write_json(file, results, indent=None)
    print_tables(results.get("report", {}).get("tables", []), console)
    console.print(Text(f"{file}: {len(results['jobs'])} of {len(study.jobs)} jobs"), soft_wrap=True)
    for name in results["missing"]:
        console.print(Text(f"missing: {name}"))
    return 1 if results["missing"] else 0


def predict(
    path: Positional[Path], *, preset: str | None = None, out: Path | None = None, reuse: Path | None = None
) -> int:
    """Train the bases that are left and predict from them alone, before any arm.

    Args:
      path: Folder with a study.json.
      preset: One of its presets; the first by default.
      out: Directory of the study; runs/NAME-PRESET by default.
      reuse: Directory of another study: bases that it has trained just as this preset would are copied.
    """
    from dsjax.cli.devices import keep_compiled_programs
    from dsjax.study import jobs
    from dsjax.study import predict as predictions

    study = jobs.Definition.read(path).study(preset, out)
    keep_compiled_programs()
    console = terminal()
    _reuse(study, reuse, console, needs=False)
    study.start()
    with told(study, console) as notice:
        found = predictions.predict(study, notice)
    print_tables(predictions.tables(found), console)
    console.print(Text(f"{study.path / predictions.PREDICTIONS}"), soft_wrap=True)
    if found["seen"]:
        console.print(Text(f"{len(found['seen'])} arms were done before: of them these are no predictions"))
    return 0


def power(
    path: Positional[Path],
    pilot: Positional[Path],
    predictions: Positional[Path],
    *,
    preset: str | None = None,
    json: Path | None = None,
) -> int:
    """What a preset's seeds can see in each cell, and what its bases promise.

    Args:
      path: Folder with a study.json.
      pilot: results.json of a pilot with cells of the same names, or the directory that it is in.
      predictions: The predictions.json of the design or of the pilot.
      preset: The design; the first preset by default.
      json: Write it to this file (docs/jobs.md), next to what it has of other presets.
    """
    from dsjax.io import read_json, write_json
    from dsjax.study import jobs
    from dsjax.study import power as planning
    from dsjax.study.results import read_results, report_of
    from dsjax.study.settings import Settings
    from dsjax.study.tables import rounded

    definition = jobs.Definition.read(path)
    name = next(iter(definition.presets)) if preset is None else preset
    asked = Settings.read({k: v for k, v in definition.settings_of(name).items() if k != "power"})
    file, results = read_results("pilot", pilot)
    report = report_of(results, "pilot", pilot)
    known = read_json(predictions, "predictions", "a predictions.json of `dsjax study predict`")
    require(
        isinstance(known, dict) and "histories" in known, "predictions", str(predictions), "of `dsjax study predict`"
    )
    families = [h.get("family") for h in definition.hypotheses]
    tests = max([families.count(family) for family in families], default=1)
    cells = rounded(planning.plan(report, known, asked.cells, asked.seeds, tests))
    if json is not None:
        require_files(file, predictions, json=json)
        before = read_json(json, "json") if json.exists() and json.stat().st_size else {}
        design = {"seeds": asked.seeds, "tests": tests, "pilot": f"{results['study']}-{results['preset']}"}
        with writing("json", json):
            write_json(json, {**before, name: {**design, "cells": cells}})
    print_tables(planning.tables(cells), terminal())
    return 0


def compare(one: Positional[Path], other: Positional[Path], *, json: Path | None = None) -> int:
    """Count which intervals of two runs of one study, with different seeds, overlap.

    Args:
      one: results.json of a run, or the directory that it is in.
      other: That of the other.
      json: Write what is found to this file (format: docs/jobs.md).
    """
    from dsjax.io import interpreted, write_json
    from dsjax.study.agreement import agreement, estimates, tables
    from dsjax.study.results import WHAT, read_results, report_of

    reports, runs, files = [], [], []
    for name, path in (("one", one), ("other", other)):
        file, results = read_results(name, path)
        files.append(file)
        reports.append(report_of(results, name, path))
        runs.append({field: results.get(field) for field in ("study", "preset", "provenance", "missing")})
        with interpreted(name, path, WHAT):
            runs[-1]["seconds"] = sum(results.get("seconds", {}).values())
            require(bool(estimates(reports[-1])), name, str(path), f"{WHAT}, with estimates")
    require_files(*files, json=json)
    with interpreted("one and other", files[1], f"{WHAT}, both of one study"):
        counted = agreement(*reports)
        shown = tables(counted)
    if json is not None:
        with writing("json", json):
            write_json(json, {"format": 1, "runs": runs, **counted}, indent=None)
    print_tables(shown, terminal())
    return 0


def _amount(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    require(0 < amount < math.inf, "resources", f"{name}={value}", "name=amount with an amount > 0, e.g. GPU=1")
    return amount


@contextmanager
def told(study: jobs.Study, console: Console) -> Iterator[Callable[[str, str, float], None]]:
    """One bar over the whole study, with the time that is left, and a line for every job that ends."""
    from dsjax.study import jobs

    part = {name: study.fraction(name) * job.work for name, job in study.jobs.items()}
    ended = {name for name in study.jobs if study.done(name)}
    total = sum(job.work for job in study.jobs.values())

    with Bars(console, study.preset) as bars:

        def notice(name: str, state: str, fraction: float) -> None:
            part[name] = fraction * study.jobs[name].work
            if state in (jobs.DONE, jobs.FAILED):
                console.print(Text(f"{name}: {state}"))
                ended.update([name] if state == jobs.DONE else [])
            bars(study.preset, sum(part.values()), total, f"{len(ended)}/{len(part)} jobs")

        yield notice


def print_failures(study: jobs.Study, found: list[jobs.Status], console: Console) -> None:
    """A line and the file of the traceback for every job that has failed."""
    from dsjax.study import jobs

    for status in found:
        if status.state == jobs.FAILED:
            console.print(Text(f"{status.job.name}: {status.message}"))
            file = study.folder(status.job.name) / "error.json"
            console.print(Text(f"  traceback: {file}"), soft_wrap=True)


def _load(definition: jobs.Definition, preset: str | None, out: Path | None) -> jobs.Study:
    """The study as its directory holds it: its jobs, even if study.json has been edited since."""
    from dsjax.study import jobs

    asked = definition.study(preset, out)
    found = jobs.Study.load(asked.path)
    allowed = f"the directory of {asked.name}, preset {asked.preset}"
    require((found.name, found.preset) == (asked.name, asked.preset), "out", str(asked.path), allowed)
    return found

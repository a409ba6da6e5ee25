"""A tiny study: jobs that draw from a seed, with needs; and jobs that fail, stop or wait on request."""

import json
import os
import time
from pathlib import Path

import jax

from dsjax.io import read_json, write_json
from dsjax.study.jobs import Job


def draw(options, directory, needs, progress):
    """Numbers of a seed, plus what the needed jobs drew."""
    del directory
    numbers = jax.random.normal(jax.random.key(options["seed"]), (options["count"],))
    progress(1, 2)
    before = sum(need.result["sum"] for need in needs.values())
    progress(2, 2)
    return {"sum": float(numbers.sum()) + before, "needs": sorted(needs)}


def halves(options, directory, needs, progress):
    """Two halves, kept in files; the second one waits while a file says so, and every start of a half leaves a line."""
    del needs
    log, total = Path(options["log"]), 0
    for done, name in enumerate(("first", "second")):
        kept = directory.path / f"{name}.json"
        if not kept.exists():
            with log.open("a") as file:
                file.write(f"{directory.path.name} {name} {os.getpid()}\n")
            while name == "second" and log.with_name("wait").exists():
                time.sleep(0.01)
            write_json(kept, len(name))
        total += read_json(kept)
        progress(done + 1, 2)
    return {"total": total}


def fails_while(options, directory, needs, progress):
    """An error while a file exists."""
    del directory, needs, progress
    if Path(options["file"]).exists():
        raise FloatingPointError("loss is nan")
    return {"sum": 0.5}


def returns(options, directory, needs, progress):
    """What the options say, as Python data."""
    del directory, needs, progress
    return {"nan": float("nan"), "object": object(), "none": None}[options["value"]]


def dies(options, directory, needs, progress):
    """The end of the process."""
    del options, directory, needs, progress
    os._exit(9)


def jobs(settings):
    """A base per seed, and arms from it."""
    out = []
    for seed in range(settings["seeds"]):
        base = Job(f"base/seed-{seed}", "tests.study.jobs_example:draw", {"seed": seed, "count": 3})
        out.append(base)
        for n, arm in enumerate(settings["arms"]):
            options = {"seed": 10 * (n + 1) + seed, "count": settings["count"]}
            out.append(Job(f"{arm}/seed-{seed}", "tests.study.jobs_example:draw", options, (base.name,), work=2.0))
    return out


CHECKS = {"theorems": ["T10", "T2"], "instances": 3, "quick": True, "workers": 1}


def before_checks(settings):
    """`jobs`, before a check of two theorems."""
    return [*jobs(settings), Job("checks", "proofs_check.study_jobs:theorem", CHECKS)]


def report(merged, directory, definition):
    """Means over seeds."""
    assert json.loads((directory / "jobs.json").read_text())["study"] == merged["study"]
    return {"jobs": len(merged["jobs"]), "missing": len(merged["missing"])}


def quick_jobs(settings):
    """In the place of the jobs of a quickstart."""
    del settings
    return jobs({"seeds": 1, "arms": ["a", "b"], "count": 4})


def quick_report(merged, directory, definition):
    """In the place of the report of a quickstart."""
    return {**report(merged, directory, definition), "histories": {}, "theory": {}, "tables": []}

"""Theorem checks and boundaries as jobs of a study, `proofs_check.study_jobs:NAME`; see `dsjax.study.jobs.Job`."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dsjax.study.jobs import Done, Progress
from dsjax.training.run_directory import RunDirectory
from proofs_check.registry import select
from proofs_check.results import numeric_report
from proofs_check.runner import DEFAULT_INSTANCES, check
from proofs_check.runner import Progress as Step


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reports of different theorems, same instances and seed, as one; the format is that of `Report.to_json`."""
    return {
        **reports[0],
        "ok": all(report["ok"] for report in reports),
        "seconds": sum(report["seconds"] for report in reports),
        "theorems": [row for report in reports for row in report["theorems"]],
    }


def _cores() -> int:
    """Processes to share the theorems out to; a process that belongs to a pool may not start others."""
    if multiprocessing.current_process().daemon:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def theorem(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Numeric checks of one theorem or several, as `Report.to_json`; after a kill, those that were done stay done.

    Args:
      options: of `check`, all optional: {"theorems": ids (all), "instances", "seed", "quick", "workers" (all cores)};
        the numbers do not depend on the workers.
      directory: has a stage for every theorem that is done.
      needs: none.
      progress: called with (theorems done, theorems to do).
    """
    del needs
    settings = {"instances": DEFAULT_INSTANCES, "seed": 0, "quick": False, "workers": _cores(), **options}
    ids = [found.id for found in select(settings.pop("theorems", None))]
    missing = [name for name in ids if not directory.done(name)]

    def keep(step: Step) -> None:
        if (result := step.result) is not None:
            report = numeric_report(settings["seed"], settings["instances"], [result], result.seconds)
            directory.run_stage(step.theorem, lambda _: report.to_json())
        progress(len(ids) - len(missing) * (1 - step.done / step.total), len(ids))

    if missing:
        check(missing, progress=keep, **settings)
    return merged([directory.result(name) for name in ids])


def theorems(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """The reports of the `theorem` jobs that it needs, in their order, as one."""
    del options, directory, progress
    return merged([need.result for need in needs.values()])


def kl_tax(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Figure F3: the phase diagram of T7."""
    del options, directory, needs, progress
    from proofs_check.theorems.t07_kl_tax.boundary import measure

    return measure()

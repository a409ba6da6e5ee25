"""Theorem checks and boundaries as jobs of a study, `proofs_check.study_jobs:NAME`; see `dsjax.study.jobs.Job`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsjax.study.jobs import Done, Progress
from dsjax.training.run_directory import RunDirectory
from proofs_check.registry import select
from proofs_check.runner import Progress as Step
from proofs_check.runner import check


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reports of different theorems, same instances and seed, as one; the format is that of `Report.to_json`."""
    return {
        **reports[0],
        "ok": all(report["ok"] for report in reports),
        "seconds": sum(report["seconds"] for report in reports),
        "theorems": [row for report in reports for row in report["theorems"]],
    }


def theorem(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Numeric checks of one theorem or several, as `Report.to_json`; after a kill, those that were done stay done.

    Args:
      options: of `check`, all optional: {"theorems": ids (all), "instances", "seed", "quick"}.
      directory: has a stage for every theorem.
      needs: none.
      progress: called with (theorems done, theorems to do), after every chunk of instances.
    """
    del needs
    theorems = select(options.get("theorems"))
    settings = {name: options[name] for name in ("instances", "seed", "quick") if name in options}
    reports = []
    for i, found in enumerate(theorems):

        def hook(p: Step, before: int = i) -> None:
            progress(before + p.done / p.total, len(theorems))

        def work(_: Any, name: str = found.id, hook: Any = hook) -> dict[str, Any]:
            return check(name, progress=hook, **settings).to_json()

        reports.append(directory.run_stage(found.id, work))
    return merged(reports)


def theorems(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """The reports of the `theorem` jobs that it needs, in their order, as one."""
    del options, directory, progress
    return merged([need.result for need in needs.values()])


def kl_tax(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Figure F3: the phase diagram of T7."""
    del options, directory, needs, progress
    from proofs_check.theorems.t07_kl_tax.boundary import measure

    return measure()

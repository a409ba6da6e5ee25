"""Boundaries of theorems as jobs of a study, `proofs_check.study_jobs:NAME`; see `dsjax.study.jobs.Job`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsjax.study.jobs import Done, Progress
from dsjax.training.run_directory import RunDirectory


def kl_tax(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Figure F3: the phase diagram of T7."""
    del options, directory, needs, progress
    from proofs_check.theorems.t07_kl_tax.boundary import measure

    return measure()

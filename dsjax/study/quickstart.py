"""The quickstart: a small study of one seed, with the theorem checks among its jobs, that comes with the package.

It may have a second half, settings `second` of another task with another history: `none/..` and `full/..` are its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsjax.config import require_int
from dsjax.errors import require
from dsjax.evaluation.samples import evaluation_sets
from dsjax.io import require_memory
from dsjax.study import trainings
from dsjax.study.jobs import Definition, Job
from dsjax.study.settings import Settings
from dsjax.training.config import BASE

FILE = Path(__file__).with_name("quickstart.json")
THEOREMS = "theorems"  # of the settings' `theory`
SECOND = "second"


def jobs(settings: Mapping[str, Any]) -> list[Job]:
    """The jobs of both halves.

    Raises:
      InputError: for settings that cannot be used, or halves with a history in common.
    """
    return [job for half in halves(settings) for job in trainings.jobs(half)]


def halves(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of the study, and those of its second half if it has one."""
    first = {name: value for name, value in settings.items() if name != SECOND}
    return [first, *([dict(settings[SECOND])] if SECOND in settings else [])]


def definition(
    file: Path = FILE, *, seed: int | None = None, instances: int | None = None, updates: int | None = None
) -> Definition:
    """The first preset of a study, by default the packaged one, with what people change most in its place.

    Args:
      file: a study.json whose jobs are `dsjax.study.quickstart:jobs` or `dsjax.study.trainings:jobs` (format:
        docs/jobs.md).
      seed: of the trainings and of the theorem checks.
      instances: random instances of each theorem.
      updates: of every arm.

    Raises:
      InputError: for a file that cannot be read, or settings that cannot be used.
    """
    if instances is not None:
        require_int("instances", instances, 1)
        require_memory("instances", instances, 48 * instances)  # a claim's and a control's errors stay
    found = Definition.read(file)
    preset = next(iter(found.presets))
    for half in halves(found.settings_of(preset)):
        Settings.read(half)
    changes: dict[str, Any] = {} if seed is None else {"first_seed": seed}
    if updates is not None:
        changes["arm"] = {"updates": updates}
    if SECOND in found.settings_of(preset):
        changes[SECOND] = dict(changes)
    checks = {name: value for name, value in (("seed", seed), ("instances", instances)) if value is not None}
    if THEOREMS in found.settings_of(preset).get("theory", {}):
        changes["theory"] = {THEOREMS: {"options": checks}}
    else:
        require(instances is None, "instances", instances, f"nothing: {file} checks no theorems")
    found = found.changed(preset, changes)
    for half in halves(found.settings_of(preset)):
        settings = Settings.read(half)
        # A task may have too few problems: better now than after the trainings.
        task = settings.config(BASE, settings.histories[0], settings.first_seed).task_of
        evaluation_sets(task, task.splits, settings.evaluation_problems)
    return found

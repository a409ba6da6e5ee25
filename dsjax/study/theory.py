"""What theory says about the study's question, as a job of it: the atlas of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsjax.errors import require
from dsjax.study.jobs import Done, Progress
from dsjax.training.run_directory import RunDirectory


def atlas(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Figures F1 and F2: exact decision shares of objectives against answer length; see `dsjax.atlas.rows`.

    `options["objectives"]` are names of the atlas; all of them by default.
    """
    del directory, needs
    from dsjax.atlas.rows import ENTRIES, compute
    from dsjax.atlas.table import to_json

    names = options.get("objectives", [*ENTRIES])
    for name in names:
        require(name in ENTRIES, "objective", name, ENTRIES)
    return to_json(compute({name: ENTRIES[name] for name in names}, progress=progress))

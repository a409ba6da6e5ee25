"""What theory says about the study's question, as a job of it: the atlas of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsjax.study.jobs import Done, Progress
from dsjax.training.run_directory import RunDirectory


def atlas(options: Mapping[str, Any], directory: RunDirectory, needs: Mapping[str, Done], progress: Progress) -> Any:
    """Figures F1 and F2: exact decision shares of every objective against answer length; see `dsjax.atlas.rows`."""
    del options, directory, needs
    from dsjax.atlas.rows import compute
    from dsjax.atlas.table import to_json

    return to_json(compute(progress=progress))

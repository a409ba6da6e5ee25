"""`dsjax quickstart`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsjax.cli.flags import chosen, fields_of
from dsjax.cli.terminal import Bars, terminal
from dsjax.errors import require


def quickstart(
    *,
    out: Path = Path("runs/quickstart"),
    config: Path | None = None,
    settings: fields_of("dsjax.study.quickstart:QuickstartConfig") = None,  # pyright: ignore[reportInvalidTypeForm]
) -> int:
    """Theorem checks, base model, SFT and RL from it, evaluation, figures; resumable.

    Args:
      out: Run directory.
      config: JSON file with the fields to change.
      settings: Fields of `QuickstartConfig`, a flag each.
    """
    from dsjax.cli.summary import summarise
    from dsjax.config import from_dict
    from dsjax.io import read_json
    from dsjax.study import quickstart as job

    data = {} if config is None else read_json(config, "configuration file")
    require(isinstance(data, dict), "configuration file", str(config), "a JSON object with named fields")
    wanted = from_dict(job.QuickstartConfig, {**data, **chosen(settings, job.QuickstartConfig)})
    console = terminal()
    with Bars(console, *job.stages(wanted)) as bars:
        results = job.run(wanted, out, _check_theorems, bars)
    summarise(results, out, console)
    return 0 if results["theorems"]["ok"] else 1


def _check_theorems(instances: int, seed: int, progress: Any) -> dict[str, Any]:
    import proofs_check
    from dsjax.cli.devices import cores

    def hook(p: proofs_check.Progress) -> None:
        progress(p.done / p.total)

    return proofs_check.check(instances=instances, seed=seed, workers=cores(), progress=hook).to_json()

"""`dsjax quickstart`: the study that comes with the package, from its jobs to its figures."""

from __future__ import annotations

from pathlib import Path

from dsjax.cli.study import print_failures, told
from dsjax.cli.summary import summarise
from dsjax.cli.terminal import print_tables, terminal, waiting
from dsjax.errors import require


def quickstart(
    *,
    out: Path = Path("runs/quickstart"),
    config: Path | None = None,
    seed: int | None = None,
    instances: int | None = None,
    updates: int | None = None,
    workers: int | None = None,
) -> int:
    """Theorem checks, base model, SFT and RL from it, evaluation, figures; resumable.

    Args:
      out: Run directory.
      config: Another study.json; its first preset is used (format: docs/jobs.md).
      seed: Of the runs and of the theorem checks.
      instances: Random instances of each theorem.
      updates: Of each arm.
      workers: Dask: start this many worker processes; by default jobs run here, one after the other.
    """
    from dsjax.cli.devices import keep_compiled_programs
    from dsjax.figures import draw
    from dsjax.io import write_json
    from dsjax.study import jobs
    from dsjax.study.engine import run_here, run_on_dask
    from dsjax.study.quickstart import FILE, definition
    from dsjax.study.results import NAME, collect
    from proofs_check.theorems.t07_kl_tax.boundary import draw as draw_kl_tax

    require(workers is None or workers >= 1, "workers", workers, "an integer >= 1")
    asked = definition(config or FILE, seed=seed, instances=instances, updates=updates)
    study, console = asked.study(out=out), terminal()
    keep_compiled_programs()
    study.start()  # refused before there is a bar
    with told(study, console) as notice:
        if workers is None:
            run_here(study, notice)
        else:
            run_on_dask(study, workers, notice=notice)
    found = study.status()
    if any(status.state != jobs.DONE for status in found):
        print_failures(study, found, console)
        return 1
    with waiting(console, "Report and figures"):
        results = collect(study, asked)
        write_json(study.path / NAME, results, indent=None)
        draw(results["report"], study.path, kl_tax=draw_kl_tax)
    print_tables(results["report"]["tables"], console)
    ok = summarise(results["report"], console)
    console.print(f"Results and figures: {study.path}", soft_wrap=True)
    return 0 if ok else 1

"""The command line: `dsjax check`, `dsjax quickstart`, `dsjax figures`.

Exit status: 0 success, 1 a failed check, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dsjax.errors import InputError


@dataclass(frozen=True)
class Check:
    """Check the theorems on random processes, each with a control that it must reject."""

    theorem: tuple[str, ...] = ()
    """Theorems to check, e.g. T3; all by default."""
    instances: int = 256
    """Random instances per theorem."""
    seed: int = 0
    """Seed of the instances."""
    json: Path | None = None
    """Also write the report to this file (format: docs/theory.md)."""


@dataclass(frozen=True)
class Quickstart:
    """The main job: theorem checks, base model, SFT and RL from it, evaluation, figures; run again to continue."""

    out: Path = Path("runs/quickstart")
    """Run directory."""
    config: Path | None = None
    """JSON file with the fields to change."""
    set: tuple[str, ...] = field(default=())
    """Fields to change, as name=value, e.g. seed=1."""


@dataclass(frozen=True)
class Figures:
    """Draw the figures of a finished run again, from its results.json."""

    run: Path = Path("runs/quickstart")
    """Run directory."""


@contextmanager
def _bars(console: Console, work: dict[str, float]) -> Iterator[Callable[[str, float, float], None]]:
    """One progress bar per named piece of work; yields the hook (name, done, total) that moves them.

    They appear with the first progress, so that an error in the input is not buried under empty bars.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    bars = Progress(*columns, TimeElapsedColumn(), console=console)
    tasks = {name: bars.add_task(f"{name:<12}", total=total, start=False) for name, total in work.items()}
    moved: set[str] = set()

    def advance(name: str, done: float, total: float) -> None:
        if not moved:
            bars.start()
        if name not in moved:
            bars.start_task(tasks[name])
            moved.add(name)
        bars.update(tasks[name], completed=done, total=total)

    try:
        yield advance
    finally:
        if moved:
            bars.stop()


def _write_report(path: Path, data: dict[str, Any]) -> None:
    from dsjax.study import write_json

    try:
        write_json(path, data)
    except OSError as error:
        raise InputError("json", str(path), f"a file that can be written ({error.strerror})") from error


def check(command: Check, console: Console) -> int:
    """Run `dsjax check`."""
    import proofs_check

    with _bars(console, {"checks": 1.0}) as advance:
        report = proofs_check.run(
            list(command.theorem) or None,
            instances=command.instances,
            seed=command.seed,
            progress=lambda p: advance("checks", p.done, p.total),
        )
    report.print(console)
    if command.json is not None:
        _write_report(command.json, report.to_json())
    return 0 if report.ok else 1


def _check_theorems(instances: int, seed: int, progress: Any) -> dict[str, Any]:
    import proofs_check

    return proofs_check.run(instances=instances, seed=seed, progress=lambda p: progress(p.done / p.total)).to_json()


def _overrides(command: Quickstart) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if command.config is not None:
        try:
            data = json.loads(command.config.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError("configuration file", str(command.config), f"a readable JSON file ({error})") from error
        if not isinstance(data, dict):
            raise InputError("configuration file", str(command.config), "a JSON object with named fields")
    for item in command.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError("set", item, "name=value")
        try:
            data[name] = json.loads(value)
        except json.JSONDecodeError:
            data[name] = value.split(",") if name == "arms" else value
    return data


def quickstart(command: Quickstart, console: Console) -> int:
    """Run `dsjax quickstart`."""
    from dsjax import quickstart as job
    from dsjax.configuration import from_dict

    config = from_dict(job.QuickstartConfig, _overrides(command))
    with _bars(console, job.stages(config)) as advance:
        results = job.run(config, command.out, _check_theorems, advance)
    summarise(results, command.out, console)
    return 0 if results["theorems"]["ok"] else 1


_MEASURES = {
    "p": "p",
    "a": "a",
    "b": "b",
    "auroc": "AUROC of STOP",
    "accuracy": "final accuracy",
    "gain": "gain over p",
    "rounds": "attempts used",
}


def _cell(e: dict[str, float | None], form: str = "{} ({})") -> str:
    if e["value"] is None:
        return "-"
    value = f"{e['value']:.3f}"
    return value if e["low"] is None else form.format(value, f"{e['low']:.3f}..{e['high']:.3f}")


def summarise(results: dict[str, Any], out: Path, console: Console) -> None:
    """Print what came out, with 95 % intervals over problems (one seed)."""
    from dsjax.tasks.addition import SPLITS

    report = results["theorems"]
    passed = sum(t["status"] == "ok" for t in report["theorems"])
    rejected = sum(bool(t["control_rejected"]) for t in report["theorems"])
    total = len(report["theorems"])
    console.print(f"\nTheorems: {passed} of {total} hold, {rejected} of {total} controls rejected.")
    for split, models in results["evaluation"].items():
        table = Table(title=f"{SPLITS.get(split, split)}")
        table.add_column("")
        for model in models:
            table.add_column(model)
        for name, label in _MEASURES.items():
            table.add_row(label, *(_cell(models[model][name], "{}\n{}") for model in models))
        console.print(table)
        console.print("Final accuracy minus base, split between the components (Shapley):")
        for arm, change in results["improvement"][split].items():
            parts = results["accounting"][split][arm]["accuracy"]
            console.print(f"  {arm}: {_cell(change)}", highlight=False)
            console.print(f"    sampler {_cell(parts['sampler'])}, decider {_cell(parts['decider'])}", highlight=False)
    console.print(
        "p: a first attempt is right; a, b: P(STOP | right), P(STOP | wrong); final accuracy: of the kept answer.\n"
        "low..high is a 95 % interval over problems. These are the numbers of one seed."
    )
    console.print(f"Results and figures: {out}")


def figures(command: Figures, console: Console) -> int:
    """Run `dsjax figures`."""
    from dsjax.plotting import draw_figures

    file = command.run / "results.json"
    try:
        results = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError("run", str(command.run), f"the directory of a finished run ({error})") from error
    for path in draw_figures(results, command.run):
        console.print(str(path), highlight=False)
    return 0


Command = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    console = Console()
    command = tyro.cli(Command, args=arguments, prog="dsjax", description="Who gets the gradient: answer or decision?")
    run: Any = {Check: check, Quickstart: quickstart, Figures: figures}[type(command)]
    try:
        return run(command, console)
    except InputError as error:
        print(f"dsjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dsjax: interrupted; finished stages are kept, run the same command to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

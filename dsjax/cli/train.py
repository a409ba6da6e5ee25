"""`dsjax train`: a long run with progress, signals and a table at the end."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dsjax.cli.devices import keep_compiled_programs, use_processor_cores
from dsjax.cli.terminal import parse_settings
from dsjax.config import from_dict, load, to_dict
from dsjax.errors import InputError
from dsjax.training.checkpoints import StorageError
from dsjax.training.config import TrainConfig
from dsjax.training.divergence import DivergedError
from dsjax.training.multihost import CONTINUES, LostProcessError, check_options, first, join, leave, part
from dsjax.training.records import Row
from dsjax.training.run import Stopped, run

_MEASURES = {"accuracy": "final accuracy", "p": "p", "a": "a", "b": "b", "auroc": "AUROC of STOP", "rounds": "attempts"}


@contextmanager
def stop_signals(say: Callable[[], None]) -> Iterator[Callable[[], int | None]]:
    """Yields a function that returns the first SIGINT or SIGTERM since, or None; the second one ends the program."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(console: Console, updates: int) -> Iterator[tuple[Progress, Callable[[int, Row], None]]]:
    columns = (
        *(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} updates"),
        ),
        *(TextColumn("{task.fields[now]}"), TimeRemainingColumn()),
    )
    progress = Progress(*columns, console=console)
    task = progress.add_task("train", total=updates, now="")
    last: tuple[float, int] | None = None

    def advance(step: int, row: Row) -> None:
        nonlocal last
        now = time.perf_counter()
        if last is None:  # not before, so that an error in the input is not buried under an empty bar
            progress.start()
        elif row:
            rate = (step - last[1]) / (now - last[0])
            progress.update(task, now=f"{rate:.1f}/s  reward {row['reward']:.3f}")
        last = now, step
        progress.update(task, completed=step)

    try:
        yield progress, advance
    finally:
        if last is not None:
            progress.stop()


def _table(config: TrainConfig, result: dict[str, Any], directory: Path, console: Console) -> None:
    best, evaluations = result["best"], result["evaluations"]
    steps = {"start": 0, "best": best["step"] if best else 0, "last": result["updates"]}
    for split, name in config.task.split_names.items():
        if split not in evaluations["last"]:
            continue
        table = Table(title=name)
        table.add_column("")
        for which, step in steps.items():
            table.add_column(f"{which} ({step})")
        for measure, label in _MEASURES.items():
            values = (evaluations[which][split][measure] for which in steps)
            table.add_row(label, *("-" if v is None else f"{v:.3f}" for v in values))
        console.print(table)
    console.print("best: highest final accuracy in distribution; nothing else is used to choose it.")
    console.print(f"Run: {directory}", highlight=False)


Processes = tuple[str | None, int | None, int | None]  # coordinator, how many, which: see `processes.check_options`


def train(
    file: Path,
    directory: Path,
    settings: Sequence[str],
    overrides: Sequence[str],
    console: Console,
    processes: Processes = (None, None, None),
) -> int:
    """Run `dsjax train`; returns the exit status.

    Raises:
      InputError: for bad input.
      DivergedError: see `dsjax.training.run.run`.
    """
    override = parse_settings(overrides)
    config = from_dict(TrainConfig, {**to_dict(load(TrainConfig, file)), **parse_settings(settings), **override})
    check_options(*processes)
    keep_compiled_programs()
    use_processor_cores(config.devices, processes[1])
    if processes[1] is None:
        return _train(config, directory, tuple(override), console)
    try:
        join(*processes)
        console.quiet = not first()
        status = _train(config, directory, tuple(override), console)
    except (InputError, DivergedError) as error:  # the same in every process
        if first():
            print(f"dsjax: {error}", file=sys.stderr)
        part()
        return 2 if isinstance(error, InputError) else 1
    # What follows may be of this process alone: it must not wait for the others, nor they for it.
    except KeyboardInterrupt:
        print(f"dsjax: interrupted; {CONTINUES}", file=sys.stderr)
        leave(128 + signal.SIGINT)
    except LostProcessError as error:
        print(f"dsjax: {error}", file=sys.stderr)
        leave(1)
    except BaseException:
        traceback.print_exc()
        leave(1)
    if status == 1:
        leave(1)
    part()
    return status


def _train(config: TrainConfig, directory: Path, override: tuple[str, ...], console: Console) -> int:
    try:
        with (
            _progress(console, config.updates) as (progress, advance),
            stop_signals(lambda: progress.console.print("Saving ..; once more to leave without.")) as stop,
        ):
            result = run(
                config,
                directory,
                override=override,
                advance=advance,
                say=lambda text: progress.console.print(text, highlight=False),
                stop=stop,
            )
    except Stopped as stopped:
        if first():
            print(f"dsjax: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except StorageError as error:
        print(f"dsjax: {error}; with room to write, the same command continues", file=sys.stderr)
        return 1
    _table(config, result, directory, console)
    return 0

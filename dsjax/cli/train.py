"""`dsjax train`: a long run with progress, signals and a table at the end."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from tyro.conf import Positional

from dsjax.cli.flags import Pairs, chosen, fields_of, pairs
from dsjax.cli.terminal import Bars, number, table, terminal
from dsjax.errors import InputError, require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.training.config import TrainConfig

_MEASURES = {"accuracy": "final accuracy", "p": "p", "a": "a", "b": "b", "auroc": "AUROC of STOP", "rounds": "attempts"}


def train(
    config: Positional[Path],
    *,
    run: Path,
    override: Pairs = (),
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    settings: fields_of("dsjax.training.config:TrainConfig") = None,  # pyright: ignore[reportInvalidTypeForm]
) -> int:
    """A long run; the same command continues after whatever ended it.

    Args:
      config: JSON file with the settings (docs/training.md); flags replace them.
      run: Run directory.
      override: Setting that replaces the one the run had so far, e.g. keep=5; only those that may change.
      coordinator: HOST:PORT of process 0, where several processes train together (docs/scaling.md).
      processes: How many processes train together; 0: as the environment of the cluster (Slurm, Open MPI) says.
      process: Number of this process, from 0.
      settings: Fields of `TrainConfig`, a flag each.
    """
    from dsjax.cli.devices import keep_compiled_programs, use_processor_cores
    from dsjax.config import from_dict, from_text
    from dsjax.io import read_json
    from dsjax.training.config import TrainConfig
    from dsjax.training.multihost import check_options

    data = read_json(config, "configuration file")
    require(isinstance(data, dict), "configuration file", str(config), "a JSON object with named fields")
    replaced = from_text(TrainConfig, pairs("override", override))
    wanted = from_dict(TrainConfig, {**data, **chosen(settings, TrainConfig), **replaced})
    check_options(coordinator, processes, process)
    keep_compiled_programs()
    use_processor_cores(wanted.devices, processes)
    console = terminal()
    if processes is None:
        return _train(wanted, run, tuple(replaced), console)
    return _train_together((coordinator, processes, process), wanted, run, tuple(replaced), console)


def _train_together(
    who: tuple[str | None, int | None, int | None],
    config: TrainConfig,
    directory: Path,
    override: tuple[str, ...],
    console: Console,
) -> int:
    """One of several processes; `who` says how they meet."""
    import jax

    from dsjax.training.divergence import DivergedError
    from dsjax.training.multihost import CONTINUES, LostProcessError, initialize, leave, shutdown

    try:
        initialize(*who)
        console.quiet = jax.process_index() > 0
        status = _train(config, directory, override, console)
    except (InputError, DivergedError) as error:  # the same in every process
        if jax.process_index() == 0:
            print(f"dsjax: {error}", file=sys.stderr)
        shutdown()
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
    shutdown()
    return status


def _train(config: TrainConfig, directory: Path, override: tuple[str, ...], console: Console) -> int:
    import jax

    from dsjax.training.checkpoints import StorageError
    from dsjax.training.run import Stopped, run

    last: tuple[float, int] | None = None
    try:
        with (
            Bars(console, "train") as bars,
            stop_signals(lambda: console.print("Saving ..; once more to leave without.")) as stop,
        ):

            def advance(step: int, row: dict[str, Any]) -> None:
                nonlocal last
                now, note = time.perf_counter(), ""
                if last is not None and row:
                    note = f"{(step - last[1]) / (now - last[0]):.1f}/s, reward {row['reward']:.3f}"
                last = now, step
                bars("train", step, config.updates, note)

            result = run(config, directory, override=override, advance=advance, say=console.print, stop=stop)
    except Stopped as stopped:
        if jax.process_index() == 0:
            print(f"dsjax: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except StorageError as error:
        print(f"dsjax: {error}; with room to write, the same command continues", file=sys.stderr)
        return 1
    _show(config, result, console)
    console.print(f"Run: {directory}", soft_wrap=True)
    return 0


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


def _show(config: TrainConfig, result: dict[str, Any], console: Console) -> None:
    best, evaluations = result["best"], result["evaluations"]
    steps = {"start": 0, "best": best["step"] if best else 0, "last": result["updates"]}
    for split, name in config.task_of.split_names.items():
        if split in evaluations["last"]:
            shown = table(name, "", *(f"{which} ({step})" for which, step in steps.items()))
            for measure, label in _MEASURES.items():
                shown.add_row(label, *(number(evaluations[which][split][measure], ".3f") for which in steps))
            console.print(shown)
    console.print("best: highest final accuracy in distribution; nothing else is used to choose it.")

"""The command line; `dsjax --help` lists the commands.

Exit status: 0 success, 1 a failed check, a training that diverged or a full disk, 2 bad input, 130 interrupted, 143
terminated; after the last two the same command continues.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from dsjax.cli.study import Study, study
from dsjax.cli.terminal import bars, parse_settings, require_directory, require_writable, writing
from dsjax.errors import InputError, require


@dataclass(frozen=True)
class Check:
    """Check the theorems on random processes, each with controls that it must reject."""

    theorem: tuple[str, ...] = ()
    """Theorems to check, e.g. T3; all by default."""
    instances: int | None = None
    """Random instances per theorem; 1000 by default, 32 with --quick."""
    seed: int = 0
    """Seed of the instances."""
    quick: bool = False
    """Fewer instances and one shape a theorem."""
    symbolic: bool = False
    """Prove identities in free symbols on small shapes instead."""
    statistical: bool = False
    """Test sampled estimators against exact expectations instead."""
    process: str | None = None
    """Check on a process of your own: module:function that returns a DecisionSamplingProcess."""
    instance_file: Path | None = None
    """Check one stored instance, as a report writes them."""
    json: Path | None = None
    """Also write the results to this file (format: docs/results.md)."""
    report: Path | None = None
    """Run everything and write an HTML page with its numbers to this directory."""


@dataclass(frozen=True)
class Quickstart:
    """Theorem checks, base model, SFT and RL from it, evaluation, figures; run again to continue."""

    out: Path = Path("runs/quickstart")
    """Run directory."""
    config: Path | None = None
    """Another study.json; its first preset is used (format: docs/jobs.md)."""
    seed: int | None = None
    """Of the trainings and of the theorem checks."""
    instances: int | None = None
    """Random instances of each theorem."""
    updates: int | None = None
    """Of each arm."""


@dataclass(frozen=True)
class Train:
    """A long run with checkpoints; the same command continues after whatever ended it (docs/training.md)."""

    config: Annotated[Path, tyro.conf.Positional]
    """JSON file with the settings."""
    run: Path
    """Run directory."""
    set: tuple[str, ...] = field(default=())
    """Settings instead of those of the file, as name=value."""
    override: tuple[str, ...] = field(default=())
    """Settings that replace those the run had so far, as name=value; only those that may change."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes train together (docs/scaling.md)."""
    processes: int | None = None
    """How many processes train together; 0: as the environment of the cluster (Slurm, Open MPI) says."""
    process: int | None = None
    """Number of this process, from 0."""


@dataclass(frozen=True)
class Atlas:
    """How each objective shares its exact expected gradient between answer and decision, for 1 to 1024 tokens."""

    objective: str | None = None
    """Your own loss, module:function, or a name of the registry, next to known ones; the whole atlas by default."""
    set: tuple[str, ...] = field(default=())
    """Options of that objective, as name=value."""
    demonstrations: bool = False
    """It learns from demonstrations instead of the policy's own trajectories."""
    length: int | None = None
    """Your answer length in tokens: adds a plain-language reading."""
    json: Path | None = None
    """Write the numbers to this file (format: docs/objectives.md)."""
    csv: Path | None = None
    """Write them as CSV."""
    figures: Path | None = None
    """Draw F1 and F2 into this directory."""


@dataclass(frozen=True)
class Attribute:
    """Attribution of rollouts that come from somewhere else: log-probs, masks and rewards in one .npz file."""

    file: Annotated[Path, tyro.conf.Positional]
    """The .npz file (format: docs/attribute.md)."""
    objective: str = "grpo"
    """A name of the registry, or module:function."""
    set: tuple[str, ...] = field(default=())
    """Options of the objective, as name=value."""
    json: Path | None = None
    """Also write every number to this file."""


@dataclass(frozen=True)
class Bench:
    """Speed of training, sampling and reading, as fractions of the machine's matrix product (docs/performance.md)."""

    preset: str = "1M"
    """Size of the network: nano, 1M, 4M or 16M."""
    sweep: tuple[str, ...] = ()
    """Also measure along batch, length, rounds, width, seeds or devices."""
    set: tuple[str, ...] = field(default=())
    """Settings, as name=value, e.g. batch=256, devices=1, dtype=bfloat16."""
    json: Path | None = None
    """Write the numbers to this file (format: docs/performance.md)."""
    compare: Path | None = None
    """A stored result to compare with."""
    figures: Path | None = None
    """Draw the sweeps into this directory."""


@dataclass(frozen=True)
class Figures:
    """Draw every figure of a finished study again, from its stored numbers."""

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    """Directory with results.json, or that file."""
    out: Path | None = None
    """Where to; next to the results by default."""
    arms: tuple[str, ...] = ()
    """Arms in the figures, in this order; by default those that the study names, or all."""


def _own_process(name: str | None) -> Any:
    """The process that a user's function returns."""
    if name is None:
        return None
    from dsjax.numerics import exact
    from dsjax.objectives import import_function
    from dsjax.process import DecisionSamplingProcess

    function = import_function("process", name)
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise InputError("process", name, f"a function without arguments ({error})") from error
    with exact():
        process = function()
    require(isinstance(process, DecisionSamplingProcess), "process", name, "a function that returns a process")
    return process


def check(command: Check, console: Console) -> int:
    """Run `dsjax check`."""
    import proofs_check
    from dsjax.cli.devices import cores
    from dsjax.io import write_json

    require_writable("json", command.json)
    require_directory("report", command.report)
    asked = [name for name in ("symbolic", "statistical", "report") if getattr(command, name)]
    own = [n for n in ("process", "instance_file") if getattr(command, n) is not None]
    require(len(own) + len(asked) <= 1, " and ".join(own + asked), "together", "one of them at a time")
    ids = list(command.theorem) or None
    instances = command.instances
    if instances is None:
        instances = proofs_check.QUICK_INSTANCES if command.quick else proofs_check.DEFAULT_INSTANCES
    kinds = ["numeric", "symbolic", "statistical", "boundaries"] if command.report else asked or ["numeric"]
    work = {kind: 1.0 for kind in kinds}
    with bars(console, work) as advance:

        def hook(name: str) -> Any:
            return lambda p: advance(name, p.done, p.total)

        if command.instance_file is not None:
            result: Any = proofs_check.check_instance(command.instance_file, ids)
        elif command.symbolic:
            result = proofs_check.run_symbolic(ids, hook("symbolic"))
        elif command.statistical:
            require(ids is None, "theorem", ids, "no selection: the correction is over all estimators")
            result = proofs_check.run_statistical(command.seed, hook("statistical"))
        elif command.report is not None:
            evidence = proofs_check.gather(ids, instances, command.seed, command.quick, hook)
            proofs_check.write_page(command.report, evidence)
            result = evidence.numeric
        else:
            process = _own_process(command.process)
            if process is not None:
                result = proofs_check.run(ids, instances, command.seed, hook("numeric"), process=process)
            else:
                result = proofs_check.run_in_workers(
                    ids, instances, command.seed, hook("numeric"), quick=command.quick, workers=cores()
                )
    result.print(console)
    ok = result.ok
    if command.report is not None:
        ok = evidence.ok
        console.print(f"Page: {command.report / 'index.html'}", highlight=False)
    if command.json is not None:
        with writing("json", command.json):
            write_json(command.json, result.to_json())
    return 0 if ok else 1


def quickstart(command: Quickstart, console: Console) -> int:
    """Run `dsjax quickstart`."""
    from dsjax.cli.quickstart import quickstart as job

    del console
    return job(**vars(command))


def train(command: Train, console: Console) -> int:
    """Run `dsjax train`."""
    from dsjax.cli.train import train as job

    processes = (command.coordinator, command.processes, command.process)
    return job(command.config, command.run, command.set, command.override, console, processes)


def atlas(command: Atlas, console: Console) -> int:
    """Run `dsjax atlas`."""
    from dsjax.cli import atlas as job

    for name in ("json", "csv"):
        require_writable(name, getattr(command, name))
    require_directory("figures", command.figures)
    entries = job.entries_with(command.objective, parse_settings(command.set), command.demonstrations)
    with bars(console, {"atlas": 1.0}) as advance:
        rows = job.measure(entries, command.length, lambda done, total: advance("atlas", done, total))
    job.show(rows, command.length, console)
    job.store(rows, command.json, command.csv, command.figures, console)
    return 0


def attribute(command: Attribute, console: Console) -> int:
    """Run `dsjax attribute`."""
    from dsjax.cli.attribute import attribute as job

    require_writable("json", command.json)
    return job(command.file, command.objective, parse_settings(command.set), command.json, console)


def bench(command: Bench, console: Console) -> int:
    """Run `dsjax bench`."""
    from dsjax.cli.devices import use_processor_cores

    settings = {"preset": command.preset, **parse_settings(command.set)}
    use_processor_cores(settings.get("devices"))
    from dsjax.cli.bench import bench as job
    from dsjax.config import from_dict
    from dsjax.training.bench import BenchConfig

    config = from_dict(BenchConfig, settings)
    return job(config, command.sweep, command.json, command.compare, command.figures, console)


def figures(command: Figures, console: Console) -> int:
    """Run `dsjax figures`."""
    from dsjax.cli.figures import figures as job

    del console
    return job(command.run, out=command.out, arms=command.arms)


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--set` and `--override` once each: the parser would take the last one alone."""
    out, values, flag = [], {}, None
    for item in arguments:
        if item in ("--set", "--override"):
            flag = item
            values.setdefault(flag, [])
        elif flag is not None and not item.startswith("--"):
            values[flag].append(item)
        else:
            flag = None
            out.append(item)
    return out + [item for name, given in values.items() for item in (name, *given)]


Command = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Atlas, tyro.conf.subcommand("atlas")]
    | Annotated[Attribute, tyro.conf.subcommand("attribute")]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
)
RUN: dict[type, Any] = {
    Check: check,
    Quickstart: quickstart,
    Train: train,
    Atlas: atlas,
    Attribute: attribute,
    Study: study,
    Bench: bench,
    Figures: figures,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    console = Console()
    if str(Path.cwd()) not in sys.path:  # module:function of the user's own, as with python -m
        sys.path.append(str(Path.cwd()))
    arguments = joined(sys.argv[1:] if arguments is None else arguments)
    command = tyro.cli(Command, args=arguments, prog="dsjax", description="Who gets the gradient: answer or decision?")
    try:
        return RUN[type(command)](command, console)
    except InputError as error:
        print(f"dsjax: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"dsjax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dsjax: interrupted; finished stages are kept, run the same command to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""`dsjax check`: the theorems."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsjax.cli.flags import List
from dsjax.cli.terminal import Bars, require_directory, require_files, terminal, writing
from dsjax.errors import InputError, require


def check(
    *,
    theorem: List = (),
    instances: int | None = None,
    seed: int = 0,
    quick: bool = False,
    symbolic: bool = False,
    statistical: bool = False,
    process: str | None = None,
    instance_file: Path | None = None,
    json: Path | None = None,
    report: Path | None = None,
) -> int:
    """Check the theorems on random processes, with controls that must be rejected.

    Args:
      theorem: Theorems to check, e.g. T3; all by default.
      instances: Random instances per theorem; 1000 by default, 32 with --quick.
      seed: Seed of the instances.
      quick: Fewer instances and one shape a theorem.
      symbolic: Prove identities in free symbols on small shapes instead.
      statistical: Test sampled estimators against exact expectations instead.
      process: Check on a process of your own: module:function that returns a DecisionSamplingProcess.
      instance_file: Check one stored instance, as a report writes them.
      json: Also write the results to this file (format: docs/files.md).
      report: Run everything and write an HTML page with its numbers to this directory.
    """
    require_files(*([] if instance_file is None else [instance_file]), json=json)
    if json is not None and report is not None:
        apart = json.resolve() not in [(report / name).resolve() for name in ("index.html", "report.json")]
        require(apart, "json", str(json), "another file than those of --report")
    require_directory("report", report)
    asked = [name for name, on in (("symbolic", symbolic), ("statistical", statistical), ("report", report)) if on]
    own = [name for name, given in (("process", process), ("instance_file", instance_file)) if given is not None]
    require(len(own) + len(asked) <= 1, " and ".join(own + asked), "together", "one of them at a time")
    require(not (statistical and theorem), "theorem", theorem, "no selection: the correction is over all estimators")
    import proofs_check
    from dsjax.cli.devices import cores
    from dsjax.io import write_json

    console, ids = terminal(), list(theorem) or None
    if instances is None:
        instances = proofs_check.QUICK_INSTANCES if quick else proofs_check.DEFAULT_INSTANCES
    kinds = ["numeric", "symbolic", "statistical", "boundaries"] if report else asked or ["numeric"]
    evidence: Any = None
    with Bars(console, *kinds) as bars:

        def hook(name: str) -> Callable[[Any], None]:
            return lambda p: bars(name, p.done, p.total)

        if instance_file is not None:
            result: Any = proofs_check.check_instance(instance_file, ids)
        elif symbolic:
            result = proofs_check.run_symbolic(ids, hook("symbolic"))
        elif statistical:
            result = proofs_check.run_statistical(seed, hook("statistical"))
        elif report is not None:
            evidence = proofs_check.gather(ids, instances, seed, quick, hook)
            proofs_check.write_page(report, evidence)
            result = evidence.numeric
        else:
            own_process = None if process is None else _own_process(process)
            options = {"instances": instances, "seed": seed, "quick": quick, "workers": cores()}
            progress = hook("numeric") if own_process is None else _forecast(bars, instances)
            result = proofs_check.check(ids, process=own_process, progress=progress, **options)
    result.print(console)
    if report is not None:
        console.print(f"Page: {report / 'index.html'}")
    if json is not None:
        with writing("json", json):
            write_json(json, result.to_json())
    return 0 if (result if evidence is None else evidence).ok else 1


def _forecast(bars: Bars, instances: int) -> Callable[[Any], None]:
    """Progress on a process of one's own: says first how long it takes, and again once everything has been timed."""
    began, said = time.monotonic(), {False: False, True: False}

    def hook(p: Any) -> None:
        now = time.monotonic() - began
        if not said[p.measured]:
            said[p.measured] = True
            what = "something of everything has run" if p.measured else f"{instances} random policies a theorem"
            bars.say(f"numeric: {what}: about {_duration(p.left)}" + (" left" if p.measured else " (--quick: less)"))
        bars("numeric", now, now + p.left)

    return hook


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _own_process(name: str) -> Any:
    """The process that a user's function returns."""
    from dsjax.numerics import exact
    from dsjax.own import call, import_function
    from dsjax.process import DecisionSamplingProcess

    function = import_function("process", name)
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise InputError("process", name, f"a function without arguments ({error})") from error
    with exact():
        process = call("process", name, function)
    require(isinstance(process, DecisionSamplingProcess), "process", name, "a function that returns a process")
    return process

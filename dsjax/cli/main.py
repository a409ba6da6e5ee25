"""The command line; `dsjax --help` lists the commands, each a function of the module of its name.

Exit status: 0 success, 1 a failed check, a training that diverged, a full disk or a fault of dsjax, 2 bad input or a
mistake in the user's own code, 130 interrupted, 143 terminated; after the last two the same command continues.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import tyro
from tyro.extras import SubcommandApp

from dsjax.cli import study
from dsjax.cli.atlas import atlas
from dsjax.cli.attribute import attribute
from dsjax.cli.bench import bench
from dsjax.cli.check import check
from dsjax.cli.decisions import decisions
from dsjax.cli.explore import explore
from dsjax.cli.figures import figures
from dsjax.cli.flags import deferred, gathered
from dsjax.cli.quickstart import quickstart
from dsjax.cli.train import train
from dsjax.errors import InputError
from dsjax.own import Told, own_line, told

DESCRIPTION = "Who gets the gradient: answer or decision?\n\nWith --traceback an error shows where it comes from."
STUDY = "A list of independent jobs: do them here or on many machines, merge results."
FULL = (errno.ENOSPC, errno.EDQUOT)
COMMANDS: dict[str, Any] = {  # a function, or more of them by name
    "check": check,
    "quickstart": quickstart,
    "train": train,
    "atlas": atlas,
    "attribute": attribute,
    "decisions": decisions,
    "study": {
        "run": study.run,
        "status": study.status,
        "report": study.report,
        "compare": study.compare,
        "predict": study.predict,
        "power": study.power,
    },
    "bench": bench,
    "figures": figures,
    "explore": explore,
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends what Ctrl-C ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    if str(Path.cwd()) not in sys.path:  # module:function of the user's own, as with python -m
        sys.path.append(str(Path.cwd()))
    given = list(sys.argv[1:] if arguments is None else arguments)
    shows = "--traceback" in given
    try:
        with _terminations():
            command = _parsed([item for item in given if item != "--traceback"])  # refuses, or helps, by SystemExit
            try:
                return command()
            except BaseException as error:
                if isinstance(error, BrokenPipeError):
                    raise
                return _told(error, shows)
    except BrokenPipeError:  # whoever reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt) as error:
        return _told(error, shows)


def _parsed(arguments: Sequence[str]) -> Callable[[], int]:
    """The command with its arguments; a parser that refuses them, or shows its help, ends the program itself."""
    plain = "NO_COLOR" in os.environ or not (sys.stdout.isatty() and sys.stderr.isatty())
    tyro._experimental_options["ansi_codes"] = not plain
    known, names = COMMANDS, []
    for name in arguments:
        if not isinstance(known, Mapping) or name not in known:
            break
        known = known[name]
        names.append(name)
    rest = arguments[len(names) :]
    if callable(known):
        rest = gathered(rest, known)
    help_ = _Help(sys.stdout.isatty())
    try:
        with redirect_stdout(help_):
            return _app(COMMANDS).cli(
                prog="dsjax", description=DESCRIPTION, args=[*names, *rest], config=(tyro.conf.DisallowNone,)
            )
    finally:
        sys.stdout.write(_narrow(help_.getvalue()))


class _Help(io.StringIO):
    """What a parser prints; coloured where the output is a terminal."""

    def __init__(self, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def _narrow(text: str, width: int = 80) -> str:
    """The list of commands in the first line goes on in a second one, where it is too long."""
    first, newline, rest = text.partition("\n")
    if len(first) <= width:
        return text
    at = first.rfind(",", 0, width) + 1
    return f"{first[:at]}\n    {first[at:]}{newline}{rest}"


def _app(commands: Mapping[str, Any]) -> SubcommandApp:
    app = SubcommandApp()
    for name, command in commands.items():
        if isinstance(command, dict):
            app.command(_app(command), name=name, help=STUDY)
        else:
            app.command(name=name)(deferred(command))
    return app


@contextmanager
def _terminations() -> Iterator[None]:
    """SIGTERM as an exception, so that workers end and a terminal is left in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(error: BaseException, shown: bool) -> int:
    """Say what ended a command; returns the exit status. Code that asks Python to exit has not ended well."""
    if shown:
        traceback.print_exception(error)
    text, status = _ending(error, shown)
    print(f"dsjax: {text}", file=sys.stderr)
    return status


def _ending(error: BaseException, shown: bool) -> tuple[str, int]:
    """(what to say, exit status)."""
    reason = error.__cause__ if isinstance(error, InputError) else error
    if isinstance(reason, OSError) and reason.errno in FULL:  # whoever wrote
        return f"{error}; with room to write, the same command continues", 1
    if isinstance(error, InputError):
        line, text = own_line(error), str(error)
        where = "" if line is None or line in text else f" ({line})"
        return text + where + ("; --traceback shows all" if isinstance(error.received, Told) and not shown else ""), 2
    if isinstance(error, KeyboardInterrupt):
        word, number = ("terminated", 15) if isinstance(error, Terminated) else ("interrupted", 2)
        return f"{word}; a run or study keeps what it has finished, and the same command continues", 128 + number
    what, more = told(error), "" if shown else "; --traceback shows all"
    own = own_line(error)
    if own is not None:
        return f"{what} ({own}){more}", 2
    if isinstance(error, FloatingPointError | OSError):  # diverged; a disk that fails
        return str(error), 1
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in what:
        return f"not enough memory: {what}{more}", 1
    return f"a fault of dsjax: {what}{more}", 1


if __name__ == "__main__":
    sys.exit(main())

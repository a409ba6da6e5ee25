"""How the time and memory of the commands grow with what they are asked: fresh processes over one to two decades.

    python -m experiments.bench.scale          # measures what is missing, draws; `page.py` writes the table

A point is stored as soon as it is measured; after an interruption the same command goes on. Seconds of the processor
are counted, which other work on the machine changes far less than the clock. They are taken to be

    fixed + rest (size / largest size)^slope

so the slope is that of the part above the fixed start, on two logarithmic axes. Errors are taken to be relative; the
interval holds all slopes that an F test at 5 % does not reject.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from scipy.stats import f as f_law

from dsjax.config import to_dict
from dsjax.figures.style import DPI, footer, line_style, new_figure, styled
from dsjax.io import read_json, write_json
from dsjax.study.jobs import Job
from dsjax.training.config import TrainConfig
from dsjax.training.run_directory import provenance

HERE = Path(__file__).parent
FILE = HERE / "scale.json"
FORMAT = 1
TOKENS = 64
FILE_ROWS = 512  # of each file of a directory
SLOPES = np.linspace(0.0, 2.5, 501)
LEVEL = 0.95
TINY: dict[str, Any] = {"digits": 1, "width": 2, "rounds": 2, "layers": 1, "model_width": 8, "heads": 2, "chunk": 2}
TINY |= {"evaluation_problems": 4, "updates": 2, "evaluate_every": 2, "prompts": 4, "group": 2}


def rollouts(rows: int, seed: int = 0) -> dict[str, Any]:
    """A file of rollouts: groups of four, an answer, a decision and, in half of the rows, another answer."""
    rng, answer = np.random.default_rng(seed), TOKENS // 2 - 5
    slot, again = np.arange(TOKENS)[None], np.arange(rows)[:, None] % 2 == 1
    decides = slot == 8 + answer
    drawn = (slot >= 8) & (slot < np.where(again, 9 + 2 * answer, 9 + answer)) & ~decides
    return {
        "logp": np.log(rng.uniform(0.2, 0.9, (rows, TOKENS))),
        "sample_mask": drawn,
        "decision_mask": np.broadcast_to(decides, (rows, TOKENS)),
        "reward": rng.integers(0, 2, rows).astype(float),
        "group": np.arange(rows) // 4,
        "decision_choices": 2,
    }


def trainings(settings: Mapping[str, Any]) -> list[Job]:
    """Jobs of a study: tiny trainings that differ in their seeds."""
    configs = [TrainConfig(**TINY, seed=seed) for seed in range(settings["trainings"])]
    return [Job(f"seed-{c.seed}", "dsjax.study.trainings:train", {"config": to_dict(c)}) for c in configs]


def _check(size: int, folder: Path) -> list[str]:
    return ["-m", "dsjax", "check", "--theorem", "T1", "--theorem", "T8", "--instances", str(size)]


def _atlas(size: int, folder: Path) -> list[str]:
    take = f"dict(list(ENTRIES.items())[:{size}])"
    return ["-c", f"from dsjax.atlas.rows import ENTRIES, compute; compute({take})"]


def _file(size: int, folder: Path) -> list[str]:
    np.savez(folder / "rollouts.npz", **rollouts(size))
    return ["-m", "dsjax", "attribute", str(folder / "rollouts.npz"), "--on-policy"]


def _files(size: int, folder: Path) -> list[str]:
    (folder / "files").mkdir()
    for step in range(size):
        np.savez(folder / "files" / f"step-{step:03d}.npz", **rollouts(FILE_ROWS, step))
    return ["-m", "dsjax", "attribute", str(folder / "files"), "--on-policy", "--out", str(folder / "out")]


def _study(size: int, folder: Path) -> list[str]:
    study = {"name": "scale", "jobs": f"{__spec__.name}:trainings", "presets": {"only": {"trainings": size}}}
    (folder / "study.json").write_text(json.dumps(study))
    return ["-m", "dsjax", "study", "run", str(folder), "--out", str(folder / "out")]


@dataclass(frozen=True)
class Series:
    """One command at several sizes; `arguments(size, empty folder)` prepares what it reads."""

    command: str
    unit: str
    sizes: Sequence[int]
    arguments: Callable[[int, Path], list[str]]
    repeats: int = 1


SERIES = {
    "check": Series("dsjax check, T1 and T8", "instances", (30, 100, 300, 1000, 3000), _check),
    "atlas": Series("dsjax atlas", "objectives", (1, 3, 8, 17, 35), _atlas),
    "file": Series("dsjax attribute, a file", "rows", (320, 1024, 3200, 10_240, 32_768), _file, 2),
    "directory": Series("dsjax attribute, a directory", "files", (1, 4, 16, 64), _files, 2),
    "study": Series("dsjax study run", "trainings", (1, 2, 5, 12, 32), _study),
}


# A process of its own, which is small: what it starts is counted with the memory of who started it.
LAUNCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * unit}))
sys.exit(status)
"""


def measured(series: Series, size: int) -> dict[str, Any]:
    """Seconds and memory of a fresh process and its children, with a cache of programs that is empty at first."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *series.arguments(size, Path(folder))]
        environment = {**os.environ, "DSJAX_CACHE": str(Path(folder) / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", LAUNCH, *command], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)


class Fit(NamedTuple):
    """seconds = fixed + rest (size / largest)^slope."""

    fixed: float
    rest: float
    slope: float
    low: float
    high: float


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Fit:
    """By least squares of relative errors, with nothing negative."""
    x, y = np.asarray(sizes, float) / max(sizes), np.asarray(seconds, float)
    found: list[tuple[float, float, float]] = []  # sum of squares, fixed, rest
    for slope in SLOPES:
        columns = np.stack([np.ones_like(x), x**slope], 1) / y[:, None]
        both = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
        if both.min() < 0:  # the better one of the two alone
            alone = [(c @ np.ones_like(y)) / (c @ c) for c in columns.T]
            both = min(np.diag(alone), key=lambda p: float(((columns @ p - 1) ** 2).sum()))
        found.append((float(((columns @ both - 1) ** 2).sum()), float(both[0]), float(both[1])))
    squares = np.array([s for s, *_ in found])
    free = len(x) - 3
    within = SLOPES[squares <= squares.min() * (1 + f_law.ppf(LEVEL, 1, free) / free)]
    best = int(squares.argmin())
    _, fixed, rest = found[best]
    return Fit(fixed, rest, float(SLOPES[best]), float(within.min()), float(within.max()))


def points_of(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The points of one series, by size."""
    return sorted((p for p in result["points"] if p["series"] == name), key=lambda p: p["size"])


def fit_of(result: Mapping[str, Any], name: str) -> Fit:
    """Of the processor's seconds of one series."""
    points = points_of(result, name)
    return fit([p["size"] for p in points], [p["cpu_s"] for p in points])


def draw(result: Mapping[str, Any]) -> Figure:
    """Seconds against size, a panel a command, and the memory of all."""
    figure = new_figure(9.6, 6.0, "Growth of the commands with what they are asked")
    panels = figure.subplots(2, 3).ravel()
    for axes, (i, (name, series)) in zip(panels, enumerate(SERIES.items()), strict=False):
        points, its, style = points_of(result, name), fit_of(result, name), line_style(i)
        size = np.array([p["size"] for p in points])
        fine = np.geomspace(size.min(), size.max(), 100)
        axes.plot(fine, its.fixed + its.rest * (fine / size.max()) ** its.slope, color=style["color"])
        axes.plot(size, [p["cpu_s"] for p in points], **{**style, "linestyle": "none"})
        axes.axhline(its.fixed, color="0.5", linewidth=1.0, linestyle=(0, (4, 3)))
        interval = f"{its.low:.2f} to {its.high:.2f}"
        axes.set_title(f"{series.command}\nslope {its.slope:.2f} ({interval})")
        axes.set_xlabel(series.unit)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        _ticks(axes, series.sizes)
        panels[-1].plot(size / size.min(), [p["peak_bytes"] / 1e9 for p in points], label=name, **style)
    for axes in panels[::3]:
        axes.set_ylabel("seconds of the processor")
    panels[-1].set_title("Peak memory")
    panels[-1].set_xlabel("size / smallest size")
    panels[-1].set_ylabel("GB")
    panels[-1].set_ylim(0, 2.2)
    panels[-1].legend(fontsize=8.5, ncols=2, loc="upper left", columnspacing=1.0, handlelength=2.6)
    _ticks(panels[-1], (1, 10, 100))
    footer(figure, "Every point a fresh process, compilation included. Lines: fixed seconds (dashed) + size ^ slope.")
    return figure


def _ticks(axes: Any, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x < 1e4 else f"{x / 1e3:.0f}k"))
    axes.grid(axis="y", color="0.9", linewidth=0.6)


def main() -> None:
    """Measure what is missing, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="*", choices=list(SERIES), default=list(SERIES))
    options = parser.parse_args()
    console = Console()
    result = read_json(FILE) if FILE.exists() else {"format": FORMAT, "provenance": provenance(), "points": []}
    todo = [(n, size, r) for n in options.series for r in range(SERIES[n].repeats) for size in SERIES[n].sizes]
    done = {(p["series"], p["size"], p["repeat"]) for p in result["points"]}
    for i, (name, size, repeat) in enumerate(todo):
        if (name, size, repeat) not in done:
            point = {"series": name, "size": size, "repeat": repeat, **measured(SERIES[name], size)}
            result["points"].append(point)
            write_json(FILE, result)
            seconds = f"{point['cpu_s']:.1f} s of the processor, {point['wall_s']:.1f} s"
            console.print(f"{i + 1}/{len(todo)} {name} {size}: {seconds}, {point['peak_bytes'] / 1e6:.0f} MB")
    if all(points_of(result, name) for name in SERIES):
        with styled():
            draw(result).savefig(FILE.with_suffix(".png"), dpi=DPI, metadata={"Software": None})


if __name__ == "__main__":
    main()

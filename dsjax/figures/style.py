"""How figures look, what they are drawn from, and the files that they end in; the same numbers give the same bytes."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsjax.io import write_atomically
from dsjax.statistics import Estimate
from dsjax.training.config import BASE

Row = dict[str, Any]
Painter = Callable[[dict[str, Any], Figure], None]

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "dsjax",
    "svg.fonttype": "path",
}
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#8C8C00", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
# Arms by what they learn from: one colour a group, one marker and dashes a member, the same in every figure.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("sft-success", "sft-synthetic", "sft-mixture"),
    ("rloo", "reinforce", "reinforce-plain", "ppo"),
    ("sft-self", "sft-self-sqrt-l", "sft-self-l", "sft-self-once"),
    ("grpo", "dr-grpo"),
    ("rft", "rft-decider", "rft-sampler", "imitate-all", "rft-round"),
    ("sft-online", "sft-labels", "sft-value", "sft-frozen"),
    ("grpo-trajectory-kl", "grpo-token-kl"),
    ("only-decider", "only-sampler", "rloo-frozen"),
    ("random-reward", "coin-reward"),
)
TOGETHER = 8  # arms in a panel; more become small multiples
DPI = 150
NUMBERS = ("value", "low", "high")


@dataclass(frozen=True)
class Source:
    """What a figure is drawn from.

    Attributes:
      theory: of the report: what its jobs about theory found, by name.
      entry: of the report: one history; empty for figures about theory.
      arms: to show, in this order.
      kl_tax: puts the numbers of F3 on an empty figure.
      regimes: whole reports by name, for figures about several studies; of one study, its own.
    """

    theory: Mapping[str, Any]
    entry: Mapping[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    kl_tax: Painter | None = None
    regimes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The base and the arms to show."""
        return [BASE, *self.arms]

    @property
    def splits(self) -> dict[str, str]:
        """What each split is, in words, by name."""
        return {split: self.entry["split_names"].get(split, split) for split in self.entry["splits"]}

    @property
    def rounds(self) -> int:
        """T."""
        return self.entry["config"]["rounds"]

    @property
    def seeds(self) -> int:
        """How many trainings its numbers are of."""
        return len(self.entry["seeds"])

    @property
    def intervals(self) -> str:
        """What its intervals are."""
        over = "problems; one seed" if self.seeds == 1 else f"{self.seeds} trainings and their problems"
        return f"95 % intervals over {over}"


class Drawn(NamedTuple):
    """A figure and the numbers in it."""

    rows: Sequence[Row]
    figure: Figure


Make = Callable[[Source], Drawn | None]
Of = Literal["theory", "history", "regimes"]
FIGURES: dict[str, tuple[str, Make]] = {}


def figure(
    number: str, name: str, *, of: Literal["theory", "history", "regimes"] = "history"
) -> Callable[[Make], Make]:
    """Register a function that makes the rows of a figure and draws them, or returns None: nothing to show.

    Args:
      number: such as F5; figures are drawn in this order.
      name: of its files, after the number.
      of: `theory` or `regimes`, drawn once, or `history`, once for each.
    """

    def register(make: Make) -> Make:
        FIGURES[f"{number}_{name}"] = (of, make)
        return make

    return register


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this file, whatever the user's settings are."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **STYLE}
    settings.pop("backend", None)
    with mpl.rc_context(settings):
        yield


def write(stem: Path, figure: Figure, rows: Sequence[Row] = ()) -> list[Path]:
    """Write STEM.png, STEM.svg and, if there are rows, STEM.csv; returns the files."""
    written = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=suffix, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # once: everything has its place then, the same in both
        written.append(stem.with_name(f"{stem.name}.{suffix}"))
        write_atomically(written[-1], drawn.getvalue())
    if rows:
        buffer = io.StringIO(newline="")
        table = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        written.append(stem.with_name(f"{stem.name}.csv"))
        write_atomically(written[-1], buffer.getvalue().encode())
    return written


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure that belongs to no window and to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_wrapped(title, figure, 0.125), fontsize=13, fontweight="bold")
    return figure


def _wrapped(text: str, figure: Figure, inches: float) -> str:
    """Lines that a figure has room for, for type whose letters are so wide on average: what sticks out is cut off."""
    return textwrap.fill(text, int(figure.get_figwidth() / inches))


def footer(figure: Figure, text: str) -> None:
    """Small print below the panels; the layout leaves room for it."""
    figure.supxlabel(_wrapped(text, figure, 0.068), fontsize=8.5, color="0.3", x=0.01, ha="left")


def line_style(i: int) -> dict[str, Any]:
    """Line number i of a figure without arms: told apart by marker and dashes where there is no colour.

    No two of len(COLOURS) len(MARKERS) lines have both in common: whenever colours and markers would come again
    together, the marker is one further.
    """
    used = i // math.lcm(len(COLOURS), len(MARKERS))
    return {
        "color": COLOURS[(i + 1) % len(COLOURS)],
        "marker": MARKERS[(i + used) % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
        "markerfacecolor": "white" if i % 2 else COLOURS[(i + 1) % len(COLOURS)],
    }


def arm_style(arm: str) -> dict[str, Any]:
    """The look of a model's lines and bars, the same in every figure; a user's own arm has the look of its name."""
    if arm == BASE:
        return {"color": "#000000", "marker": "none", "linestyle": "-", "markerfacecolor": "#000000", "linewidth": 2.4}
    place = next(((g, group.index(arm)) for g, group in enumerate(GROUPS) if arm in group), None)
    group, member = (sum(arm.encode()) % len(GROUPS), 4) if place is None else place
    colour = COLOURS[group + 1]
    return {
        "color": colour,
        "marker": MARKERS[(group + 3 * member) % len(MARKERS)],
        "linestyle": DASHES[(group + 2 * member) % len(DASHES)],
        "markerfacecolor": "white" if member % 2 else colour,
    }


def blocks(arms: Sequence[str]) -> list[tuple[str, ...]]:
    """The arms in their order, in as few and as even parts as have at most `TOGETHER` each."""
    parts = max(1, -(-len(arms) // TOGETHER))
    ends = [len(arms) * i // parts for i in range(parts + 1)]
    return [tuple(arms[i:j]) for i, j in pairwise(ends)]


def arm_handles(arms: Sequence[str]) -> list[Line2D]:
    """For a legend of arms."""
    return [Line2D([], [], label=arm, **arm_style(arm)) for arm in arms]


def number(value: float | None) -> float:
    """The number, or NaN where there is none."""
    return math.nan if value is None or not math.isfinite(value) else float(value)


def numbers(estimate: Mapping[str, Any]) -> Row:
    """Value and interval of a stored estimate, as a row has them."""
    return {name: estimate[name] for name in NUMBERS}


def estimate(row: Mapping[str, Any]) -> Estimate:
    """The estimate that a row holds."""
    return Estimate.from_json(numbers(row))


def picked(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]

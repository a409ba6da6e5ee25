"""`dsjax atlas`: the objective atlas, and a user's own loss in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dsjax.atlas import rows as atlas
from dsjax.atlas import table as atlas_report
from dsjax.cli.terminal import writing
from dsjax.errors import require
from dsjax.io import write_atomically, write_json

COMPARISON = ("REINFORCE", "GRPO", "SFT", "KL loss, k2")


def entries_with(objective: str | None, options: Mapping[str, Any], demonstrations: bool) -> dict[str, atlas.Entry]:
    """The atlas, or REINFORCE and SFT for comparison with the user's own objective last.

    Raises:
      InputError: if the objective cannot be found or does not take an option.
    """
    if objective is None:
        require(not options and not demonstrations, "option", dict(options), "an objective to which it belongs")
        return dict(atlas.ENTRIES)
    entry = atlas.Entry(objective, options, demonstrations)
    atlas.resolve(objective, options)
    return {**{name: atlas.ENTRIES[name] for name in COMPARISON}, objective: entry}


def measure(
    entries: Mapping[str, atlas.Entry], length: int | None, progress: Callable[[int, int], None]
) -> list[atlas.Row]:
    """The rows, at the atlas's lengths and the user's own."""
    if length is not None:
        require(1 <= length <= atlas.LENGTHS[-1], "length", length, f"1..{atlas.LENGTHS[-1]} tokens")
    lengths = atlas.LENGTHS if length is None else tuple(sorted({*atlas.LENGTHS, length}))
    return atlas.compute(entries, lengths, progress)


def show(rows: Sequence[atlas.Row], length: int | None, console: Console) -> None:
    """Print the table and, at a length of the user's, the reading of the last row."""
    console.print(atlas_report.table(rows))
    console.print(atlas_report.LEGEND, style="dim", highlight=False)
    if length is not None:
        console.print()
        console.print(atlas_report.reading(rows[-1], length), highlight=False)


def store(
    rows: Sequence[atlas.Row], json: Path | None, csv: Path | None, figures: Path | None, console: Console
) -> None:
    """Write the files that were asked for."""
    data = atlas_report.to_json(rows)
    if json is not None:
        with writing("json", json):
            write_json(json, data)
    if csv is not None:
        with writing("csv", csv):
            write_atomically(csv, atlas_report.to_csv(rows).encode())
    if figures is not None:
        from dsjax.figures import draw

        with writing("figures", figures, "a directory"):
            for path in draw({"theory": {"atlas": data}, "histories": {}}, figures):
                console.print(str(path), highlight=False)

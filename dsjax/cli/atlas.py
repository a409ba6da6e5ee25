"""`dsjax atlas`: the objective atlas, and a user's own loss in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsjax.cli.flags import Pairs, options
from dsjax.cli.terminal import Bars, require_directory, require_files, terminal, writing
from dsjax.errors import require

if TYPE_CHECKING:  # the command line shows its help without loading JAX
    from dsjax.atlas.rows import Entry

COMPARISON = ("REINFORCE", "GRPO", "SFT", "KL loss, k2")


def atlas(
    *,
    objective: str | None = None,
    option: Pairs = (),
    demonstrations: bool = False,
    length: int | None = None,
    json: Path | None = None,
    csv: Path | None = None,
    figures: Path | None = None,
) -> int:
    """How each objective shares its exact expected gradient, for 1 to 1024 tokens.

    Args:
      objective: Your own loss, module:function, or a name of the registry, next to known ones; the whole atlas by
        default.
      option: Option of that objective, e.g. clip=0.1.
      demonstrations: It learns from demonstrations instead of the policy's own trajectories.
      length: Your answer length in tokens: adds a plain-language reading.
      json: Write the numbers to this file (format: docs/objectives.md).
      csv: Write them as CSV.
      figures: Draw F1 and F2 into this directory.
    """
    require_files(json=json, csv=csv)
    require_directory("figures", figures)
    from dsjax.atlas import rows
    from dsjax.atlas.table import LEGEND, reading, table, to_csv, to_json
    from dsjax.io import write_atomically, write_json

    console = terminal()
    entries = entries_with(objective, options(objective, option), demonstrations)
    require(length is None or 1 <= length <= rows.LENGTHS[-1], "length", length, f"1..{rows.LENGTHS[-1]} tokens")
    lengths = rows.LENGTHS if length is None else tuple(sorted({*rows.LENGTHS, length}))
    with Bars(console, "atlas") as bars:
        found = rows.compute(entries, lengths, lambda done, total: bars("atlas", done, total))
    console.print(table(found))
    console.print(LEGEND, style="dim")
    if length is not None:
        console.print(f"\n{reading(found[-1], length)}")
    data = to_json(found)
    if json is not None:
        with writing("json", json):
            write_json(json, data)
    if csv is not None:
        with writing("csv", csv):
            write_atomically(csv, to_csv(found).encode())
    if figures is not None:
        from dsjax.figures import draw

        with writing("figures", figures, "a directory"):
            for path in draw({"theory": {"atlas": data}, "histories": {}}, figures):
                console.print(str(path), soft_wrap=True)
    return 0


def entries_with(objective: str | None, options: Mapping[str, Any], demonstrations: bool) -> dict[str, Entry]:
    """The atlas, or some of it for comparison with the user's own objective, which comes last.

    Raises:
      InputError: if the objective cannot be found or does not take an option.
    """
    from dsjax.atlas.rows import ENTRIES, Entry, resolve

    if objective is None:
        require(not demonstrations, "demonstrations", True, "an objective that learns from them")
        return dict(ENTRIES)
    resolve(objective, options)
    return {**{name: ENTRIES[name] for name in COMPARISON}, objective: Entry(objective, options, demonstrations)}

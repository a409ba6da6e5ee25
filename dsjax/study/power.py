"""What a design can see, from a pilot: the smallest effect, beside what the bases say that there can be at most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsjax.statistics import Estimate
from dsjax.study.hypotheses import LEVEL
from dsjax.study.settings import CANNOT_TELL, RUN, Cell
from dsjax.study.tables import Table

POWER = 0.8


def smallest_effect(values: Sequence[float], seeds: int, tests: int = 1, power: float = POWER) -> Estimate:
    """The mean of paired differences that a design detects with this power: (t_(1 - alpha/2m) + t_power) s / sqrt(n).

    Student's two-sided test at 5 %, divided by the number of tests (the first step of Holm's correction); s from the
    pilot. The interval is that of s alone, by the law of chi squared: a pilot of few seeds leaves it wide.

    Args:
      values: the difference of each seed of a pilot, at least two.
      seeds: n of the design, at least two.
      tests: m, hypotheses of the family.
      power: chance to find an effect of that size.
    """
    from scipy.special import chdtri, stdtrit  # late, as in `dsjax.statistics`

    known = np.asarray([v for v in values if math.isfinite(v)], float)
    if len(known) < 2 or seeds < 2:
        return Estimate(math.nan)
    free, spread = len(known) - 1, float(known.std(ddof=1))
    reach = float(stdtrit(seeds - 1, 1 - LEVEL / (2 * tests)) + stdtrit(seeds - 1, power)) / math.sqrt(seeds)
    low, high = (spread * math.sqrt(free / float(chdtri(free, tail))) for tail in (LEVEL / 2, 1 - LEVEL / 2))
    return Estimate(reach * spread, reach * low, reach * high)


def verdict(smallest: Estimate, ceiling: Estimate) -> str:
    """Cannot tell where even the upper end of the ceiling's interval is below the smallest effect; else run."""
    most = ceiling.high if math.isfinite(ceiling.high) else ceiling.value
    return CANNOT_TELL if smallest and most < smallest.value else RUN


def plan(
    pilot: Mapping[str, Any], predictions: Mapping[str, Any], cells: Sequence[Cell], seeds: int, tests: int
) -> dict[str, Any]:
    """{cell: {split: {"smallest", "ceiling", "verdict"}}} of a design, from a pilot's report and the predictions.

    A cell that the pilot does not have has no smallest effect, and is run.
    """
    out: dict[str, Any] = {}
    for history, entry in pilot["histories"].items():
        known = predictions["histories"].get(history, {"splits": {}})["splits"]
        found = {(c["id"], c["split"]): Estimate.from_json(c.get("gap")) for c in entry.get("cells", [])}
        for cell in cells:
            for split, of in known.items():
                smallest = smallest_effect(found.get((cell.id, split), Estimate(math.nan)).seeds, seeds, tests)
                ceiling = Estimate.from_json(of[cell.ceiling])
                row = {"smallest": smallest, "ceiling": ceiling, "verdict": verdict(smallest, ceiling)}
                out.setdefault(cell.id, {})[split] = row
    return out


def tables(cells: Mapping[str, Any]) -> list[Table]:
    """The plan for people."""
    rows = [
        [
            name,
            split,
            f"{Estimate.from_json(of['smallest']):.3f}",
            f"{Estimate.from_json(of['ceiling']):.3f}",
            of["verdict"],
        ]
        for name, splits in cells.items()
        for split, of in splits.items()
    ]
    title = f"Gap in accuracy: the smallest effect seen with power {POWER:g} [interval of s], and at most"
    return [{"title": title, "columns": ["cell", "split", "smallest effect", "ceiling", "verdict"], "rows": rows}]

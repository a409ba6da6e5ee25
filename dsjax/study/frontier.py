"""Accuracy in against out of distribution along the training, and arms compared where they are equally good inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsjax.statistics import RESAMPLES, Range, Resampled

IN_DISTRIBUTION = "in"

Curves = dict[str, Any]  # {"step": [K], SPLIT: final accuracy [S][K]} of S seeds at K looks, NaN where not defined


def curves_of(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> Curves:
    """Final accuracy along the training, from the rows of each seed's metrics."""
    looks = [[row for row in rows if row["kind"] == "evaluation"] for rows in seeds]
    out: Curves = {"step": sorted({row["step"] for row in looks[0]})}
    for split in dict.fromkeys(row["split"] for row in looks[0]):
        out[split] = [[row["accuracy"] for row in rows if row["split"] == split] for rows in looks]
    return out


def first_at(inside: np.ndarray, outside: np.ndarray, level: float) -> float:
    """Accuracy outside where that inside first reaches the level, straight between looks; NaN if it never does."""
    reached = np.flatnonzero(inside >= level)
    if not len(reached):
        return float("nan")
    k = int(reached[0])
    if k == 0 or inside[k] == inside[k - 1]:
        return float(outside[k])
    part = (level - inside[k - 1]) / (inside[k] - inside[k - 1])
    return float(outside[k - 1] + part * (outside[k] - outside[k - 1]))


def at_equal(one: Curves, other: Curves, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(difference outside, level inside), f[S] each: both arms where they first reach the best that both reach.

    Equal accuracy in distribution instead of equal updates: an arm that learns faster would otherwise be credited, or
    blamed, for how far it got. The level of a seed is the lesser of the two arms' best; looks are noisy, and the first
    that reaches it is a little early for both. NaN for a seed where one of them never gets above its first look: the
    base, where the difference is 0 whatever the arms do.
    """
    gaps, levels = [], []
    for seed in range(len(one[split])):
        pairs = [
            (np.asarray(arm[IN_DISTRIBUTION][seed], float), np.asarray(arm[split][seed], float)) for arm in (one, other)
        ]
        level = min(float(np.max(inside)) for inside, _ in pairs)
        if level <= max(float(inside[0]) for inside, _ in pairs):
            level = float("nan")
        first, second = (first_at(*pair, level) for pair in pairs)
        gaps.append(first - second)
        levels.append(level)
    return np.array(gaps), np.array(levels)


def where_defined(values: np.ndarray, within: Range, resamples: int = RESAMPLES) -> Resampled:
    """A measure of seeds alone, of those that have it: `at_equal`'s are some of the seeds, or none."""
    defined = values[np.isfinite(values)]
    return Resampled.of_seeds(defined if len(defined) else [np.nan], within, resamples)

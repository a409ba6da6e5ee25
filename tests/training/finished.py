"""What a finished run has left, and whether two of them are the same bit for bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dsjax.training.run as runs
from dsjax.training.checkpoints import Checkpoints, load_checkpoint
from dsjax.training.config import TrainConfig


def final(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Arrays of the last checkpoint, on one device; keys as their data."""
    one = dataclasses.replace(config, devices=1, parameter_sharding="replicated")
    like = runs._shapes(runs.program_of(one).state(one, runs.start_params(one, path, None)))
    trees, _ = load_checkpoint(Checkpoints(path / "checkpoints", 2).folder(config.updates), like)
    keys = ("problem_key", "draw_key")
    return {
        **trees,
        "training": {k: jax.random.key_data(v) if k in keys else v for k, v in trees["training"].items()},
    }


def rows_of(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """Rows of its metrics, of these kinds or of all."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] in kinds or not kinds]


def assert_same_end(path: Path, other: Path, config: TrainConfig) -> None:
    """The same bytes of metrics, arrays and results."""
    assert (path / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, final(path, config), final(other, config))
    one, two = (json.loads((p / "result.json").read_text()) for p in (path, other))
    for name in ("updates", "best", "evaluations"):
        assert one[name] == two[name], name

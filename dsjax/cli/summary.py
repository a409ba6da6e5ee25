"""What a study of one seed found, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console


def summarise(report: Mapping[str, Any], console: Console) -> bool:
    """Print what each component brought to each arm, and whether the theorems hold; returns whether all do."""
    from dsjax.statistics import Estimate
    from dsjax.training.config import BASE

    for entry in report["histories"].values():
        for split, found in entry["splits"].items():
            task = entry["config"].get("task", entry["config"].get("operation"))
            console.print(f"{task}: final accuracy minus base, {entry['split_names'].get(split, split)}:")
            for arm in (m for m in entry["models"] if m != BASE):
                parts = {
                    name: Estimate.from_json(e)
                    for name, e in found["accounting"][f"{arm} - {BASE}"]["accuracy"].items()
                }
                console.print(f"  {arm}: {parts['total']:+.3f}")
                console.print(f"    sampler {parts['sampler']:+.3f}, decider {parts['decider']:+.3f}")
        if "predicted" in entry:
            known = entry["predicted"]
            parts = f"sampler {known['sampler']:+.3f}, decider {known['decider']:+.3f}"
            console.print(
                f"  predicted (T17): imitation stays at {known['imitation']:.3f}, reward ends at"
                f" {known['reward']:.3f}: {known['reward'] - known['imitation']:+.3f}\n    {parts}"
            )
    console.print(
        "p: P(a first answer is right); a, b: P(STOP | right), P(STOP | wrong); accuracy: of the kept answer;\n"
        "[low, high]: 95 % interval over problems; sampler, decider: their Shapley parts. These are one seed's numbers."
    )
    checks = report["theory"].get("theorems")
    if checks is None:
        return True
    held, rejected = (
        sum(bool(good(theorem)) for theorem in checks["theorems"])
        for good in (lambda theorem: theorem["status"] == "ok", lambda theorem: theorem["control_rejected"])
    )
    total = len(checks["theorems"])
    console.print(f"Theorems: {held} of {total} hold, {rejected} of {total} controls rejected.")
    return checks["ok"]

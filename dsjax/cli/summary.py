"""The summary of the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dsjax.tasks.addition import SPLITS

_MEASURES = {
    "p": "p",
    "a": "a",
    "b": "b",
    "auroc": "AUROC of STOP",
    "accuracy": "final accuracy",
    "gain": "gain over p",
    "rounds": "attempts used",
}


def _cell(e: dict[str, float | None], form: str = "{} ({})") -> str:
    if e["value"] is None:
        return "-"
    value = f"{e['value']:.3f}"
    return value if e["low"] is None else form.format(value, f"{e['low']:.3f}..{e['high']:.3f}")


def summarise(results: dict[str, Any], out: Path, console: Console) -> None:
    """Print what came out, with 95 % intervals over problems (one seed)."""
    report = results["theorems"]
    passed = sum(t["status"] == "ok" for t in report["theorems"])
    rejected = sum(bool(t["control_rejected"]) for t in report["theorems"])
    total = len(report["theorems"])
    console.print(f"\nTheorems: {passed} of {total} hold, {rejected} of {total} controls rejected.")
    for split, models in results["evaluation"].items():
        table = Table(title=f"{SPLITS.get(split, split)}")
        table.add_column("")
        for model in models:
            table.add_column(model)
        for name, label in _MEASURES.items():
            table.add_row(label, *(_cell(models[model][name], "{}\n{}") for model in models))
        console.print(table)
        console.print("Final accuracy minus base, split between the components (Shapley):")
        for arm, change in results["improvement"][split].items():
            parts = results["accounting"][split][arm]["accuracy"]
            console.print(f"  {arm}: {_cell(change)}", highlight=False)
            console.print(f"    sampler {_cell(parts['sampler'])}, decider {_cell(parts['decider'])}", highlight=False)
    console.print(
        "p: a first attempt is right; a, b: P(STOP | right), P(STOP | wrong); final accuracy: of the kept answer.\n"
        "low..high is a 95 % interval over problems. These are the numbers of one seed."
    )
    console.print(f"Results and figures: {out}")

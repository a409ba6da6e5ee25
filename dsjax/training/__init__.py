"""Training of the two components, and the front door to it: `train`, `TrainConfig`, `Arm`, `ARMS`, `evaluate`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsjax.evaluation.quick import evaluate
    from dsjax.training.arms import ARMS, Arm
    from dsjax.training.config import TrainConfig
    from dsjax.training.run import run as train

# Name: (file, name there). Taken when first asked for: the files of this folder need one another.
_PUBLIC = {
    "ARMS": ("dsjax.training.arms", "ARMS"),
    "Arm": ("dsjax.training.arms", "Arm"),
    "TrainConfig": ("dsjax.training.config", "TrainConfig"),
    "evaluate": ("dsjax.evaluation.quick", "evaluate"),
    "train": ("dsjax.training.run", "run"),
}

__all__ = ["ARMS", "Arm", "TrainConfig", "evaluate", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file, there = _PUBLIC[name]
    return getattr(import_module(file), there)

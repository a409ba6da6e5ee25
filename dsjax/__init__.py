"""dsjax: how a post-training objective shares its gradient between answering and deciding.

    import dsjax as ds

    found = ds.attribute_rollouts("rloo", logp=p, sample_mask=s, decision_mask=d, reward=r, group=g, decision_choices=2)
    print(found.reading)

Names are loaded when they are first used; `import dsjax` alone imports nothing heavy and changes no JAX setting.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dsjax.errors import InputError

if TYPE_CHECKING:
    from dsjax import objectives, tasks
    from dsjax.atlas.rows import compute as atlas
    from dsjax.attribution import attribute, coefficients, component_gradients, energies, signal_to_noise
    from dsjax.evaluation import cross_swap, final_accuracy, shapley
    from dsjax.evaluation.quick import evaluate
    from dsjax.objectives import objective, register
    from dsjax.policies import (
        FunctionPolicy,
        Policy,
        PositionwisePolicy,
        SaturatedPolicy,
        SharedPolicy,
        TransformerPolicy,
        log_probs,
        sample,
    )
    from dsjax.process import DecisionSamplingProcess
    from dsjax.rollouts import attribute_rollouts
    from dsjax.tasks import Task
    from dsjax.training import ARMS, Arm, TrainConfig, train
    from dsjax.trajectories import RESAMPLE, STOP, Trajectories

__version__ = "0.1.0"

# Where each public name is; a module is a name too.
_NAMES = {
    "trajectories": ("RESAMPLE", "STOP", "Trajectories"),
    "process": ("DecisionSamplingProcess",),
    "policies": (
        "FunctionPolicy",
        "Policy",
        "PositionwisePolicy",
        "SaturatedPolicy",
        "SharedPolicy",
        "TransformerPolicy",
        "log_probs",
        "sample",
    ),
    "objectives": ("objective", "register"),
    "attribution": ("attribute", "coefficients", "component_gradients", "energies", "signal_to_noise"),
    "rollouts": ("attribute_rollouts",),
    "tasks": ("Task",),
    "training": ("ARMS", "Arm", "TrainConfig", "train"),
    "evaluation": ("cross_swap", "final_accuracy", "shapley"),
    "evaluation.quick": ("evaluate",),
}
_MODULES = ("atlas", "objectives", "tasks")
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "ARMS",
    "RESAMPLE",
    "STOP",
    "Arm",
    "DecisionSamplingProcess",
    "FunctionPolicy",
    "InputError",
    "Policy",
    "PositionwisePolicy",
    "SaturatedPolicy",
    "SharedPolicy",
    "Task",
    "TrainConfig",
    "Trajectories",
    "TransformerPolicy",
    "__version__",
    "atlas",
    "attribute",
    "attribute_rollouts",
    "coefficients",
    "component_gradients",
    "cross_swap",
    "energies",
    "evaluate",
    "final_accuracy",
    "log_probs",
    "objective",
    "objectives",
    "register",
    "sample",
    "shapley",
    "signal_to_noise",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"dsjax.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'dsjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dsjax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""Objectives: pure functions `(logp_BxS, Trajectories, **options) -> (sum, count)`; the loss is sum / count."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args, get_type_hints

import jax

from dsjax.config import import_function
from dsjax.errors import require
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.entropy import entropy_bonus
from dsjax.objectives.kl import own_token_kl, reward_with_kl
from dsjax.objectives.preference import dpo, ipo
from dsjax.objectives.supervised import dft, rft, sft, sft_sequence_sum
from dsjax.objectives.surrogate import (
    biased_per_turn,
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce,
    reinforce_plus_plus,
    rloo,
    rloo_clipped,
    surrogate,
    trajectory_kl,
)
from dsjax.trajectories import Trajectories

Objective = Callable[[jax.Array, Trajectories], SumCount]

OBJECTIVES: dict[str, Callable[..., SumCount]] = {
    "surrogate": surrogate,
    "reinforce": reinforce,
    "rloo": rloo,
    "rloo_clipped": rloo_clipped,
    "grpo": grpo,
    "gspo": gspo,
    "dapo": dapo,
    "dr_grpo": dr_grpo,
    "cispo": cispo,
    "ppo": ppo,
    "reinforce_plus_plus": reinforce_plus_plus,
    "biased_per_turn": biased_per_turn,
    "sft": sft,
    "sft_sequence_sum": sft_sequence_sum,
    "rft": rft,
    "dft": dft,
    "dpo": dpo,
    "ipo": ipo,
    "own_token_kl": own_token_kl,
    "trajectory_kl": trajectory_kl,
    "entropy_bonus": entropy_bonus,
}


def _require_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that is no parameter of the function after (logp, trajectories)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in callables do not tell
        return
    known = [p.name for p in parameters[2:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            try:  # the typed dictionary of Unpack[..], if there is one, has the names
                known += list(get_type_hints(get_args(get_type_hints(function)[parameter.name])[0]))
            except (KeyError, IndexError, NameError, TypeError):
                return
    for option in options:
        require(option in known, f"option of objective {name}", option, known or "no option at all")


def resolve(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of that name, or a user's own `module:function`, with its options bound.

    Raises:
      InputError: for a name that is neither, or for an option that the function does not take.
    """
    if ":" in name:
        function = import_function("objective", name)
    else:
        require(name in OBJECTIVES, "objective", name, [*OBJECTIVES, "module:function"])
        function = OBJECTIVES[name]
    options = options or {}
    _require_options(name, function, options)
    return partial(function, **options)


__all__ = [
    "OBJECTIVES",
    "Objective",
    "SumCount",
    "biased_per_turn",
    "cispo",
    "dapo",
    "dft",
    "dpo",
    "dr_grpo",
    "entropy_bonus",
    "grpo",
    "gspo",
    "import_function",
    "ipo",
    "own_token_kl",
    "ppo",
    "reinforce",
    "reinforce_plus_plus",
    "resolve",
    "reward_with_kl",
    "rft",
    "rloo",
    "rloo_clipped",
    "sft",
    "sft_sequence_sum",
    "surrogate",
    "trajectory_kl",
]

"""What a statement asks of a process, for users who check it on their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dsjax.numerics import exact
from dsjax.process import DecisionSamplingProcess
from proofs_check.numerics import EPS


@dataclass(frozen=True)
class Requirement:
    """An assumption about the process that can be looked up before anything is computed."""

    text: str
    holds: Callable[[DecisionSamplingProcess], bool]


def occurring(process: DecisionSamplingProcess) -> DecisionSamplingProcess:
    """The process in float64, without the prompts that never come: what is claimed given such a prompt is 0/0.

    A probability below the rounding of the law itself counts as never, for no expectation can see it.
    """
    law, table = (np.asarray(x, np.float64) for x in (process.prompt_law, process.reward_table))
    comes = law > EPS
    law = law[comes] / law[comes].sum()
    with exact():
        law, table, cost = jnp.asarray(law), jnp.asarray(table[comes]), jnp.asarray(process.cost, float)
    return process.replace(prompt_law=law, reward_table=table, cost=cost)


def _is_binary(process: DecisionSamplingProcess) -> bool:
    table = np.asarray(process.reward_table)
    return bool(np.isin(table, (0.0, 1.0)).all())


def _is_mixed(process: DecisionSamplingProcess) -> bool:
    table = np.asarray(process.reward_table)
    return bool(((table.min(axis=1) == 0) & (table.max(axis=1) == 1)).all())


BINARY = Requirement("a binary verifier", _is_binary)
FREE = Requirement("no resampling cost (c = 0)", lambda process: float(process.cost) == 0)
MEMORYLESS = Requirement("history `none`", lambda process: process.history == "none")
RESAMPLES = Requirement("at least two rounds", lambda process: process.rounds >= 2)
MIXED = Requirement("a right and a wrong answer for every prompt", _is_mixed)
MIXED_IF_BINARY = Requirement(
    "a right and a wrong answer for every prompt, if the verifier is binary",
    lambda process: not _is_binary(process) or _is_mixed(process),
)

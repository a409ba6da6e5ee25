"""Objectives: pure functions `(logp_BxS, Trajectories, **options) -> (sum, count)`; the loss is sum / count.

Modules register what they define, in the order of these imports, which is that of the atlas.
"""

# ruff: noqa: F401, I001
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.kl import reward_with_kl
from dsjax.objectives.registry import OBJECTIVES, ROWS, Entry, Objective, register, resolve
from dsjax.objectives.surrogate import surrogate
from dsjax.objectives.named import (
    biased_per_turn,
    cispo,
    dapo,
    dppo_kl,
    dppo_tv,
    dr_grpo,
    dro,
    gmpo,
    gpg,
    grpo,
    gspo,
    luspo,
    named,
    ppo,
    psr_nsr,
    reinforce,
    reinforce_plus_plus,
    rloo,
    rloo_clipped,
    sapo,
)
from dsjax.objectives.supervised import dft, rft, sft, sft_sequence_sum
from dsjax.objectives.preference import dpo, ipo, kto, simpo
from dsjax.objectives.penalties import distillation, entropy_bonus, own_token_kl, trajectory_kl

objective = resolve  # `objective("grpo", clip=0.1)`

"""Objectives: pure functions `(logp_BxS, Trajectories, **options) -> (sum, count)`; the loss is sum / count.

Modules register what they define, in the order of these imports, which is that of the atlas.
"""

# ruff: noqa: F401, I001
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.kl import reward_with_kl
from dsjax.objectives.registry import OBJECTIVES, ROWS, Entry, Objective, register, resolve
from dsjax.objectives.surrogate import (
    biased_per_turn,
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    named,
    ppo,
    reinforce,
    reinforce_plus_plus,
    rloo,
    rloo_clipped,
    surrogate,
)
from dsjax.objectives.variants import dppo_kl, dppo_tv, dro, gmpo, gpg, luspo, psr_nsr, sapo
from dsjax.objectives.supervised import dft, rft, sft, sft_sequence_sum
from dsjax.objectives.preference import dpo, ipo, kto, simpo
from dsjax.objectives.penalties import distillation, entropy_bonus, own_token_kl, trajectory_kl

objective = resolve  # `objective("grpo", clip=0.1)`

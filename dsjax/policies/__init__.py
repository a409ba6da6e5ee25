"""Policies with explicit `pi_sample` and `pi_d`."""

from dsjax.policies.base import History, Params, Policy, log_probs
from dsjax.policies.tabular import PositionwisePolicy, SaturatedPolicy, SharedPolicy

__all__ = [
    "History",
    "Params",
    "Policy",
    "PositionwisePolicy",
    "SaturatedPolicy",
    "SharedPolicy",
    "log_probs",
]

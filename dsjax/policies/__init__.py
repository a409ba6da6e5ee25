"""Policies with explicit `pi_sample` and `pi_d`, and sampling from them."""

from dsjax.policies.base import History, Params, Policy, WrappedPolicy, log_probs
from dsjax.policies.function import FunctionPolicy
from dsjax.policies.rollout import Rounds, sample, to_trajectories
from dsjax.policies.tabular import PositionwisePolicy, SaturatedPolicy, SharedPolicy
from dsjax.policies.transformer import TransformerPolicy

__all__ = [
    "FunctionPolicy",
    "History",
    "Params",
    "Policy",
    "PositionwisePolicy",
    "Rounds",
    "SaturatedPolicy",
    "SharedPolicy",
    "TransformerPolicy",
    "WrappedPolicy",
    "log_probs",
    "sample",
    "to_trajectories",
]

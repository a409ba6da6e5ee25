"""What a trained sampler and decider can do: drawn samples, measures of both, accounting, other ways to decide."""

from dsjax.evaluation.accounting import cross_swap, final_accuracy, shapley
from dsjax.evaluation.quick import evaluate

__all__ = ["cross_swap", "evaluate", "final_accuracy", "shapley"]

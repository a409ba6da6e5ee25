"""Statistical evidence: sampled estimators, from the library's rollout and objectives, against exact expectations."""

from proofs_check.statistical.results import EstimatorResult
from proofs_check.statistical.runner import DEFAULT_SAMPLES, ESTIMATORS, LEVEL, run_statistical

__all__ = ["DEFAULT_SAMPLES", "ESTIMATORS", "LEVEL", "EstimatorResult", "run_statistical"]

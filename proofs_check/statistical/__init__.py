"""Statistical evidence: sampled estimators, from the library's rollout and objectives, against exact expectations."""

from proofs_check.statistical.report import Row, StatisticalReport
from proofs_check.statistical.runner import DEFAULT_SAMPLES, LEVEL, run_statistical

__all__ = ["DEFAULT_SAMPLES", "LEVEL", "Row", "StatisticalReport", "run_statistical"]

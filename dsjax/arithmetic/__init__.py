"""The arithmetic study: is the gain from deciding or from sampling? Jobs, measures, report and figures.

The study itself (hypotheses, arms, presets, scoring) is data: `experiments/arithmetic/study.json`.
"""

from dsjax.arithmetic.jobs import jobs
from dsjax.arithmetic.report import report

__all__ = ["jobs", "report"]

"""Rollouts of any framework: their file format, and what an objective does to them."""

from dsjax.rollouts.diagnosis import Diagnosis, attribute_rollouts

__all__ = ["Diagnosis", "attribute_rollouts"]

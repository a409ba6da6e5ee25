"""Studies: lists of independent jobs; and the arithmetic study, which asks whether a gain is from deciding.

A study itself (hypotheses, arms, presets, scoring) is data: `experiments/arithmetic/study.json`.
"""

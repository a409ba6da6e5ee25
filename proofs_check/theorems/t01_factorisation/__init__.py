"""T1: see numeric.py."""

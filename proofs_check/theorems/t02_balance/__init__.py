"""T2: see numeric.py."""

"""T13: see numeric.py."""

"""T8: see numeric.py."""

"""T11: see numeric.py."""

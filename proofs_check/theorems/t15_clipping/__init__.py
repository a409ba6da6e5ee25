"""T15: see numeric.py."""

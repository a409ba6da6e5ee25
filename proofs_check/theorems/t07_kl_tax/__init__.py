"""T7: see numeric.py."""

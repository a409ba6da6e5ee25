"""T10: see numeric.py."""

"""T14: see numeric.py."""

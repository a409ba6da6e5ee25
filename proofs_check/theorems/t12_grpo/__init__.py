"""T12: see numeric.py."""

"""T6: see numeric.py."""

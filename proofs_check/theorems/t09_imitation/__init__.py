"""T9: see numeric.py."""

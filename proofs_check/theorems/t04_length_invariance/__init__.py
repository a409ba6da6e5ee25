"""T4: see numeric.py."""

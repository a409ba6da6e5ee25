"""T5: see numeric.py."""

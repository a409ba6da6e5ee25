"""T3: see numeric.py."""

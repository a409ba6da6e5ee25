"""Figures, from stored numbers alone."""

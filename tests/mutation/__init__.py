"""Mutation run: plant one error at a time in the library and see which check notices it (`make mutation`)."""

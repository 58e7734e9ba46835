"""Comparisons, studies and diagnoses of residual styles."""

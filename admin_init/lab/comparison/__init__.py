"""Comparisons: a grid of runs, each trained and judged."""

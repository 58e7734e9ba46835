"""Parallel corpora: published ones, files, and one that is generated."""

"""Parallel corpora: published, generated, or from the user's own files."""

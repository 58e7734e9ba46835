"""Models, corpora, processes and command lines that several tests share."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Folder of the repository."""

"""Plumbing: files, checkpoints, processes, signals, progress, output."""

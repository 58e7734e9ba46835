"""Plumbing that knows nothing of residual connections."""

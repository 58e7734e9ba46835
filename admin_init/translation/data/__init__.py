"""Data-bins and their batches."""

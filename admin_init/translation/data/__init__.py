"""Data-bins, and batches of them."""

"""Discovery of residual connections by what a model computes."""

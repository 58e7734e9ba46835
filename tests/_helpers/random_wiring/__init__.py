"""Random modules in plain torch, with their residual connections known by construction."""

"""Measurement of the variances of every residual connection, and the omegas that follow."""

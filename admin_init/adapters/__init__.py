"""Families of layers, and the residual sites that each of them has."""

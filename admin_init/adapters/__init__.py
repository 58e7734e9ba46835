"""Adapters: residual sites of the supported families of layers."""

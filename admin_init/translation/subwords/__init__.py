"""Subword models."""

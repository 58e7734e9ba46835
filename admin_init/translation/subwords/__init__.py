"""Subword models and tokenizers."""

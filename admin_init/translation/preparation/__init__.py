"""Preparation of a corpus: cleaning, subwords, binarization."""

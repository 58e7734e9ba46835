"""Comparing variants: train them side by side, judge them, and show the result."""

"""A generated corpus of English and German sentences."""

"""Parts of AdminInit."""

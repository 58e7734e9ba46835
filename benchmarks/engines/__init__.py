"""The libraries that are measured side by side: a module each, with Training, Search or both."""

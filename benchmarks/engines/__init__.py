"""The libraries that are measured side by side, each through its own loop."""

"""The libraries that are measured side by side, each training through its own loop."""

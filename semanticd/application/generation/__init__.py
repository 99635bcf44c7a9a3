"""One request from its prompt to its events."""

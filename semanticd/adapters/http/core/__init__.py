"""Code that all dialects share: bodies, errors, guards, streams, the way to the engine."""

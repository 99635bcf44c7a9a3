"""Use cases around the engine: agents, models, cache, status."""

"""The Ollama dialect, for editors and home servers that speak no other: the same engine, the same cache."""

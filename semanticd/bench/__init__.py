"""The multi-agent benchmark: a client of any OpenAI-compatible URL. A leaf: imports nothing else of ours."""

"""The multi-agent benchmark: a client of any OpenAI-compatible URL. A leaf: imports nothing else of ours.

`runner` runs `scenarios` through a `client` on seeded `text`; a `result` is kept as JSON, shown by `report`, set
alongside others by `comparison` and drawn by `plots`.
"""

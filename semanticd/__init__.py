"""semanticd: one daemon per user that serves MLX models and keeps every agent's KV cache."""

__version__ = "0.2.0"

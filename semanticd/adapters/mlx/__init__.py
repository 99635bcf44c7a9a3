"""The only room that imports mlx or mlx_lm, and only the engine thread runs what is in it."""

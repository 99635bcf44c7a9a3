"""The only package that imports mlx or mlx_lm; its code runs on the engine thread only."""

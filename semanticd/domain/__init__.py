"""Values and decisions. Pure: no clock, no I/O, no threads, no asyncio, no numpy, no mlx."""

"""HTTP: Falcon resources and the wire form of each dialect. Knows nothing of MLX or the disk."""

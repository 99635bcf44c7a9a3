"""GGUF files as MLX model folders: their contents (architecture, tensors, vocabulary) and the conversion."""

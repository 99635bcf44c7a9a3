"""GGUF files as MLX model folders: what is in them (architecture, tensors, vocabulary), and the conversion."""

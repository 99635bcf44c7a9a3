"""The published control-plane language. A leaf: it imports nothing else of ours."""

"""The machine below MLX: BLAS, heap, CPU functions."""

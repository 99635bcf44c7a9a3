"""Blocks of other machines, over HTTP: who has what, and the bytes, never past a deadline."""

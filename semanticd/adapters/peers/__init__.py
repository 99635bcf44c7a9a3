"""Blocks of other machines over HTTP: look-ups and transfers, each with a deadline."""

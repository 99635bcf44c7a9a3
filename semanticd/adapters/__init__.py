"""Adapters: each room knows one technology, and rooms do not import one another."""

"""Weights, running caches, and the steps of a model."""

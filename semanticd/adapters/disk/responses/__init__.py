"""Responses that clients continue from by id."""

"""Responses that clients go on from by id."""

"""The system's words for an error, as a part of a sentence."""

from __future__ import annotations


def reason_of(error: OSError) -> str:
    """Return why the system refused something, without its number: `connection refused`."""
    words = str(error.strerror or error) or type(error).__name__
    return words[:1].lower() + words[1:]

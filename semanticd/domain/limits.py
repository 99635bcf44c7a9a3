"""Limits for everything a client sizes: counts, bytes and seconds, all of them here and nowhere else.

docs/limits.md is made from this table; tests/unit/domain/test_limits.py names the test that holds each row.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """One row per limit; the first word says of what, the last one in which unit (counts have none)."""

    name_characters: int = 256
    """A model's name."""

    form_bytes: int = 512 * KIB
    """A JSON schema, or all schemas and rules of a grammar together, as JSON text."""
    form_properties: int = 2_000
    """Properties of one object in a JSON schema."""
    form_counted_properties: int = 64
    """Properties of an object with `minProperties`: the grammar grows with the third power of their number."""
    form_steps: int = 200_000
    """Parts looked at to estimate how a form can be ended; beyond it the form is compiled without an estimate."""
    form_compile_s: float = 2.0
    """Time to compile a form; a slower one is refused as too complex."""
    form_compile_bytes: int = 2 * GIB
    """Address space of the process that tries a form."""
    form_cache_bytes: int = 64 * MIB
    """Compiled forms kept for later requests, by estimate."""


LIMITS = Limits()
"""The limits that hold unless a constructor is given others."""

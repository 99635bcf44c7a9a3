"""Sizes as people type them: `2GB`, `500 MiB`, `1.5g`."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
MAX_SIZE = 2**53
"""In bytes: what the control protocol takes at most."""
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_size(text: str) -> int:
    """Return a size in bytes; K, M, G and T are powers of 1024, as in our settings, with or without `B` or `iB`.

    Raises:
        ValueError: The text is not a size, or it exceeds `MAX_SIZE`.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 2GB, 500MB or 0")
    size = float(found.group(1)) * 1024 ** _POWERS[found.group(2).lower()]
    if size > MAX_SIZE:
        raise ValueError(f"{text[:40]!r} is a size of more than {MAX_SIZE} bytes")
    return int(size)


class Size(click.ParamType[int]):
    """An argument that is a size."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the typed size."""
        try:
            return value if isinstance(value, int) else read_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)

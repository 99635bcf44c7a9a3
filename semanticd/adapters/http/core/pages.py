"""How many entries of a list a client asks for at a time."""

from __future__ import annotations

from falcon.asgi import Request

from semanticd.domain.errors import InvalidRequestError


def page_size(req: Request, *, default: int, maximum: int) -> int:
    """Return the query's `limit`, `default` where it is left out or empty.

    Raises:
        InvalidRequestError: it is not a number, or outside of these bounds.
    """
    text = req.get_param("limit")
    if not text:
        return default
    # The length is looked at first: thousands of digits take long to read, and Python refuses them.
    if text.isascii() and text.isdigit() and len(text) <= len(str(maximum)) and 1 <= int(text) <= maximum:
        return int(text)
    raise InvalidRequestError(f"expected a number from 1 to {maximum}, got {text[:40]!r}", param="limit")

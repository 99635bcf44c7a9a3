"""The query of a list: how many entries at a time, and which words it may hold."""

from __future__ import annotations

from collections.abc import Sequence

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


def word(req: Request, name: str, *, allowed: Sequence[str]) -> str:
    """Return the query's word of this name, the first of those allowed where it is left out or empty.

    Raises:
        InvalidRequestError: it is another word.
    """
    text = req.get_param(name)
    if not text:
        return allowed[0]
    if text in allowed:
        return text
    raise InvalidRequestError(f"expected one of {', '.join(allowed)}, got {text[:40]!r}", param=name)


def check_names(req: Request, *allowed: str) -> None:
    """Refuse a query with other names than these: a filter that is mistyped would list everything.

    Raises:
        InvalidRequestError: there is another one.
    """
    for name in req.params:
        if name not in allowed:
            raise InvalidRequestError(
                f"this list has no parameter of that name; it takes {', '.join(allowed)}", param=name[:40]
            )

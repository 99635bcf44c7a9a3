"""The only parser of a request's path: guards, limiter, dialect, traces and router all get its result.

A path has one spelling. Empty and dot segments, encoded slashes, backslashes, control characters and invalid UTF-8 are
refused before anything is routed, so that no two readers can take one request for two resources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from semanticd.adapters.http.core.errors import InvalidPathError
from semanticd.domain.limits import LIMITS

SLASH_IN_NAME = b"/v1/models/"
"""Below this path a model's name may hold slashes, and SDKs send them encoded (`hf:org%2Fname`)."""

_NO_SEGMENT = frozenset(("", ".", ".."))
_WITHOUT_MEANING = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


def canonical_path(scope: Mapping[str, Any]) -> str:
    """Return the decoded path of an ASGI scope, without the one slash that may end it.

    Raises:
        InvalidPathError: the path has an empty or a dot segment, an encoded slash or a character without a meaning.
    """
    raw = scope.get("raw_path")
    encoded = bytes(raw) if raw else str(scope["path"]).encode("utf-8", "surrogatepass")
    if len(encoded) > LIMITS.path_bytes:
        raise InvalidPathError(f"the path is longer than {LIMITS.path_bytes} bytes")
    if not encoded.startswith(b"/"):
        raise InvalidPathError("the request's target must be a path that begins with one slash")
    if b"%2f" in encoded.lower() and not encoded.startswith(SLASH_IN_NAME):
        raise InvalidPathError("the path holds an encoded slash")
    try:
        path = unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidPathError("the path is not valid UTF-8") from None
    if _WITHOUT_MEANING.search(path):
        raise InvalidPathError("the path holds a backslash or a control character")
    if path == "/":
        return path
    segments = path.removesuffix("/").split("/")[1:]
    if not _NO_SEGMENT.isdisjoint(segments):
        raise InvalidPathError("the path has an empty segment or a dot segment; each path has one spelling")
    return "/" + "/".join(segments)

"""Reading a request's body strictly: bounded in bytes and time, one meaning only; a refusal names the field.

JSON is parsed once, a large or intricate body outside of the event loop, and none of more values than the limit.
Refused are invalid UTF-8, duplicate keys, NaN and infinities, numbers outside 64 bits and nesting beyond the limit;
fields we do not know are ignored, since clients send beta fields at will.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from falcon.asgi import Request
from msgspec import UNSET, UnsetType

from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.content_encoding import coding_of, decode
from semanticd.adapters.http.core.errors import MediaTypeError, SlowBodyError
from semanticd.adapters.http.core.request_context import SCOPE_KEY
from semanticd.domain.agent_bounds import metadata_characters
from semanticd.domain.errors import InvalidRequestError, RequestTooLargeError
from semanticd.domain.json_text import has_more_values, is_nested_deeper
from semanticd.domain.limits import LIMITS
from semanticd.domain.whole_text import whole_texts

T = TypeVar("T")
R = TypeVar("R")

LARGE_BYTES = 256 * 1024
"""Bodies above this size are parsed and translated outside of the event loop."""
MANY_VALUES = 4_096
"""So are those with more values than this, at most. Those with many times more wait for one another."""

_HEAVY_VALUES = 65_536

_HEAVY = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy-body")

_UNDECLARED = ("", "application/x-www-form-urlencoded")
"""Content types of programs that declare none; the second is curl's default."""
_MAX_INTEGER_DIGITS = 20
_INTEGERS = range(-(2**63), 2**64)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


async def read_object(
    req: Request,
    wire_type: type[T],
    config: HttpConfig,
    *,
    optional: bool = False,
    max_bytes: int | None = None,
) -> T:
    """Read, parse and type a JSON body; with `optional` an empty body counts as `{}`.

    `max_bytes` is a limit below the one of all bodies.

    Raises:
        InvalidRequestError: `param` is the field's path, the message says what was expected.
        MediaTypeError: the body is not declared as JSON, or compressed in a way that is not supported.
        RequestTooLargeError: more bytes than the limit.
        SlowBodyError: the body took longer than the timeout.
    """
    coding = coding_of(req.get_header("Content-Encoding"))
    limit = min(config.max_body_bytes, max_bytes or config.max_body_bytes)
    raw = await read_bytes(req, limit=limit, timeout_s=config.body_timeout_s)
    if coding is not None and raw:
        raw = await asyncio.to_thread(decode, raw, coding, limit=limit)
    req.context.is_large = len(raw) > LARGE_BYTES or _may_hold_more(raw, MANY_VALUES)
    exchange = req.scope.get(SCOPE_KEY)
    if exchange is not None and exchange.recording is not None:
        exchange.recording.body = raw
    if optional and not raw.strip():
        return to_wire({}, wire_type)
    _check_media_type(req)
    if req.context.is_large:
        # Other streams continue meanwhile.
        req.context.is_heavy = await asyncio.to_thread(_is_heavy, raw)
        return await _outside(
            req, lambda: to_wire(parse_json(raw, max_nesting=config.max_nesting), wire_type)
        )
    return to_wire(parse_json(raw, max_nesting=config.max_nesting), wire_type)


async def _outside(req: Request, work: Callable[[], R]) -> R:
    """Return what work on a large body comes to, done by another thread; that of heavy ones is done one after another.

    Several threads that compute leave the event loop's thread a fraction of the time each.
    """
    if not req.context.get("is_heavy"):
        return await asyncio.to_thread(work)
    return await asyncio.get_running_loop().run_in_executor(_HEAVY, work)


def _is_heavy(raw: bytes) -> bool:
    """Return whether a body holds many values.

    Raises:
        InvalidRequestError: The body has too many values.
    """
    if has_more_values(raw, LIMITS.json_values):
        raise InvalidRequestError(
            f"the body has more than {LIMITS.json_values} JSON values (commas, [ and {{ outside of strings)"
        )
    return has_more_values(raw, _HEAVY_VALUES)


def _may_hold_more(raw: bytes, limit: int) -> bool:
    """Return whether a small body may hold more values than this; texts are counted as if they were JSON."""
    return len(raw) > limit and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > limit


async def translated(req: Request, translate: Callable[[], R], *, with_more: bool = False) -> R:
    """Return what `translate` makes of the body that `read_object` read; a large one outside of the event loop.

    So it is done `with_more` than the body, such as a stored conversation: that may be large where the body is small.
    """
    return await _outside(req, translate) if req.context.is_large or with_more else translate()


def _check_media_type(req: Request) -> None:
    """Refuse a body that is not declared as JSON, unless it is typed on this machine as `curl -d` sends it.

    A browser's page may send such a form to us unasked, but never without saying where it comes from.

    Raises:
        MediaTypeError: it is declared as something else.
    """
    content_type = (req.content_type or "").split(";")[0].strip().lower()
    if content_type == "application/json" or content_type.endswith("+json"):
        return
    from_a_page = req.get_header("Origin") or req.get_header("Sec-Fetch-Site") or req.get_header("Referer")
    if content_type in _UNDECLARED and not from_a_page and _is_loopback(req.remote_addr):
        return
    raise MediaTypeError(
        f"the body must be sent as `Content-Type: application/json`, not {content_type or 'nothing'!r}; with curl, add "
        "-H 'Content-Type: application/json'"
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def read_bytes(req: Request, *, limit: int, timeout_s: float) -> bytes:
    """Read a whole body of at most `limit` bytes within `timeout_s` seconds."""
    declared = req.content_length
    if declared is not None and declared > limit:
        raise _too_large(limit)
    try:
        return await within(timeout_s, _read_limited(req, limit))
    except (asyncio.TimeoutError, TimeoutError):
        raise SlowBodyError(
            f"the request body timed out: it did not arrive within {timeout_s:g} seconds"
        ) from None


async def save_upload(req: Request, path: str, *, limit: int, stall_s: float) -> None:
    """Write a body of at most `limit` bytes into a file as it comes, outside of the event loop.

    `stall_s` seconds may pass without a byte.

    Raises:
        InvalidRequestError: the body is empty.
        MediaTypeError: the body is compressed.
        RequestTooLargeError: more bytes than the limit.
        SlowBodyError: nothing came for too long.
    """
    declared = req.content_length
    if declared is not None and declared > limit:
        raise _too_large(limit)
    if coding_of(req.get_header("Content-Encoding")) is not None:
        raise MediaTypeError("send the exported file as it is, without Content-Encoding")
    size = 0
    chunks = aiter(req.stream)
    with await asyncio.to_thread(Path(path).open, "wb") as file:
        while chunk := await _next_chunk(chunks, stall_s):
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            await asyncio.to_thread(file.write, chunk)
    if not size:
        raise InvalidRequestError("the body is empty; send the exported file as it is")


async def _next_chunk(chunks: AsyncIterator[bytes], stall_s: float) -> bytes:
    try:
        return await within(stall_s, anext(chunks))
    except StopAsyncIteration:
        return b""
    except (asyncio.TimeoutError, TimeoutError):
        raise SlowBodyError(f"no part of the body arrived within {stall_s:g} seconds") from None


async def within(seconds: float, work: Awaitable[R]) -> R:
    """Return the result of `work`.

    As `asyncio.wait_for`, which makes a task for it before Python 3.12.

    Raises:
        TimeoutError: `work` took longer; it is cancelled.
    """
    if sys.version_info < (3, 11):
        return await asyncio.wait_for(work, seconds)
    async with asyncio.timeout(seconds):
        return await work


async def _read_limited(req: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in req.stream:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the body is larger than the limit of {limit} bytes; send less, or raise the limit"
    )


def parse_json(raw: bytes, *, max_nesting: int) -> Any:
    """Parse strict JSON.

    Raises:
        InvalidRequestError: The text is not JSON, or has more than one meaning.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the body is not valid UTF-8 (byte {error.start})") from None
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequestError(f"the body is not valid JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise _too_deep(max_nesting) from None
    if is_nested_deeper(parsed, max_nesting):
        raise _too_deep(max_nesting)
    # An unpaired surrogate, left by clients that truncate a text, is not a character and cannot be tokenized.
    return whole_texts(parsed) if _SURROGATE.search(text) else parsed


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidRequestError(
                    f"the body names the key {key[:80]!r} twice in one object", param=key[:80]
                )
            seen.add(key)
    return made


def _refuse_constant(name: str) -> Any:
    raise InvalidRequestError(f"the body holds {name}, which is not JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidRequestError(f"the number {digits[:40]} is too large")
    return value


def _bounded_int(digits: str) -> int:
    # The length is looked at first: turning thousands of digits into an int is slow, and refused by Python.
    if len(digits) > _MAX_INTEGER_DIGITS or int(digits) not in _INTEGERS:
        raise InvalidRequestError(f"the number {digits[:40]} does not fit into 64 bits")
    return int(digits)


def _too_deep(limit: int) -> InvalidRequestError:
    return InvalidRequestError(f"the body is nested deeper than {limit} levels")


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """Refuse more metadata than the limit: it is stored and returned with its object."""
    size = metadata_characters(metadata or {})
    if size > LIMITS.metadata_characters:
        raise InvalidRequestError(
            f"expected at most {LIMITS.metadata_characters} characters, got {size}", param="metadata"
        )


_MAX_ECHOED = 16
"""Pairs of metadata, as OpenAI's documentation has it: those of a large body are not looked at on the event loop."""


def echoed_metadata(metadata: object) -> dict[str, str] | UnsetType:
    """Return metadata as an answer repeats it: as many names and texts as OpenAI takes; all else is left out."""
    if not isinstance(metadata, dict) or len(metadata) > _MAX_ECHOED:
        return UNSET
    if not all(isinstance(value, str) for value in metadata.values()):
        return UNSET
    return metadata if metadata_characters(metadata) <= LIMITS.metadata_characters else UNSET


_PATH = re.compile(r" - at `(key in )?\$?([^`]*)`$")
_INDEX = re.compile(r"\[(\d+|\.\.\.)\]")


def to_wire(parsed: Any, wire_type: type[T], *, prefix: str = "") -> T:
    """Turn parsed JSON into a wire type.

    Raises:
        InvalidRequestError: A field does not fit the type; the message has its path and what was expected.
    """
    try:
        return msgspec.convert(parsed, wire_type)
    except msgspec.ValidationError as error:
        raise _explain(str(error), prefix) from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None


def _explain(text: str, prefix: str) -> InvalidRequestError:
    path = prefix
    match = _PATH.search(text)
    if match:
        inside = _INDEX.sub(r".\1", match.group(2)).strip(".")
        path = ".".join(part for part in (prefix, inside) if part)
        text = text[: match.start()]
    missing = re.match(r"Object missing required field `([^`]+)`", text)
    if missing:
        path = f"{path}.{missing.group(1)}" if path else missing.group(1)
        text = "field required"
    expectation = text[:1].lower() + text[1:]
    where = path or "the body"
    return InvalidRequestError(f"{where}: {expectation.replace('`', '')}", param=path or None)

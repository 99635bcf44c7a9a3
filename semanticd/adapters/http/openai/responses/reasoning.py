"""Thinking as the responses dialect shows it: as its text, as a summary, and as a sealed text that comes back.

Clients that keep nothing here (`store: false`) ask for `reasoning.encrypted_content` and send it back unread. It is the
thinking itself, compressed and signed, so that the next prompt begins as this one did. Some SDKs show thinking only as
a summary; where one is asked for, it is the whole text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_PREFIX = "sem1."
_MAC_BYTES = 16
_MAX_BYTES = 8 * 1024 * 1024


def signing_key(api_keys: Sequence[str]) -> bytes:
    """Return the key for sealed thinking; the same after a restart with the same API keys."""
    return hashlib.sha256("\0".join(("semanticd reasoning", *sorted(api_keys))).encode()).digest()


def seal(text: str, key: bytes) -> str:
    """Return thinking as a text that only this server reads."""
    packed = zlib.compress(text.encode("utf-8", "surrogatepass"))
    return _PREFIX + base64.urlsafe_b64encode(_mac(packed, key) + packed).decode("ascii")


def unseal(sealed: str, key: bytes) -> str | None:
    """Return sealed thinking; None for thinking that another server sealed, or that was changed."""
    try:
        raw = base64.urlsafe_b64decode(sealed.removeprefix(_PREFIX).encode("ascii"))
        mac, packed = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not sealed.startswith(_PREFIX) or not hmac.compare_digest(mac, _mac(packed, key)):
            return None
        return zlib.decompressobj().decompress(packed, _MAX_BYTES).decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError, zlib.error):
        return None


def _mac(packed: bytes, key: bytes) -> bytes:
    return hmac.new(key, packed, hashlib.sha256).digest()[:_MAC_BYTES]


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """Form in which a request wants thinking returned."""

    summarized: bool = False
    key: bytes | None = None
    """Key that seals the thinking; None: it is not sealed."""

    def item(self, item_id: str, text: str) -> dict[str, Any]:
        """Return an item of thinking."""
        shown = (
            [{"type": "summary_text" if self.summarized else "reasoning_text", "text": text}] if text else []
        )
        item: dict[str, Any] = {
            "type": "reasoning",
            "id": item_id,
            "summary": shown if self.summarized else [],
            "content": [] if self.summarized else shown,
        }
        if self.key is not None and text:
            item["encrypted_content"] = seal(text, self.key)
        return item

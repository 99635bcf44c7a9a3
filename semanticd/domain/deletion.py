"""Deletion: the disk's outcome of a deletion. A refused deletion removes nothing."""

from __future__ import annotations

from typing import Literal

from semanticd.domain.errors import CacheError, StorageFullError

Deletion = Literal["done", "no room", "failed"]
"""Whether it is gone permanently, or why it is kept: the disk has no room for the change, or refuses it otherwise."""


def refused_deletion(why: Deletion, what: str, *, gone: str = "") -> CacheError:
    """Return the error for something that is kept as it was; `gone` is a sentence on what went with it all the same."""
    kept = f"{what} is not deleted: "
    more = f" {gone}" if gone else ""
    if why == "no room":
        return StorageFullError(
            f"{kept}the disk has no room for that.{more} Make room, for example with `semanticd cache prune 2GB`, and "
            "delete it again"
        )
    return CacheError(f"{kept}the disk refuses.{more} Check it (`semanticd doctor`), and delete it again")

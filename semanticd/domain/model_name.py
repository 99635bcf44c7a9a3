"""Facts that follow from a model's name alone, without access to the disk."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from semanticd.domain.limits import LIMITS

HUB = "hf:"
"""Prefix of the name of a Hugging Face Hub repository."""
DEFAULT_NAME = "default"
"""Name of the current model, or of a daemon's default model, in requests and commands."""
_PATHS = (".", "~", "/")
_CUT = 200
"""Characters of a name that is made of a longer one; a few are left to distinguish it from others."""
_COMPARED = 80
"""Characters of a name that is looked for among similar ones: comparing takes the square of the length."""
_ALIKE = 0.7
"""Minimum similarity (1: equal) at which one name may be the other, mistyped."""


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file; ignores letter case."""
    return name.lower().endswith(".gguf")


def is_path(name: str) -> bool:
    """Return whether a model's name has the form of a path, existing or not."""
    return not name.startswith(HUB) and (name.startswith(_PATHS) or is_gguf(name))


def is_addressable(name: str) -> bool:
    """Return whether requests and commands can use this model name: printable, not a path, valid in a URL."""
    segments = name.split("/")
    return (
        0 < len(name) <= LIMITS.name_characters
        and name.isprintable()
        and "\\" not in name
        and name == name.strip()
        and not is_path(name)
        and all(segment not in ("", ".", "..") for segment in segments)
    )


def did_you_mean(name: str, *known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` with the name most like this one, or nothing where none is like it.

    Names in an earlier group are preferred. Capitals and what stands before the last slash make no difference; a name
    that is known is not mistyped.
    """
    wanted = name[:_COMPARED].casefold()
    endings = dict.fromkeys((wanted, wanted.rpartition("/")[2]))
    groups = [{one.casefold(): one for one in group} for group in known]
    if any(wanted in group for group in groups):
        return ""
    for group in groups:
        found = [near for one in endings for near in difflib.get_close_matches(one, group, 1, _ALIKE)]
        if found:
            return f" (did you mean {group[found[0]]!r}?)"
    return ""


def plain_name(stem: str) -> str:
    """Return what a model is called whose file or folder has this name (without suffix): the same, where that can be.

    Characters that cannot be written are replaced, and what would make it a path or a repository's name goes.
    """
    if is_addressable(stem) and not stem.startswith(HUB) and "/" not in stem:
        return stem
    name = "".join(char if char.isprintable() and char not in "/\\" else "-" for char in stem)
    name = re.sub(r"(\.gguf)+$", "", name.strip(), flags=re.IGNORECASE).removeprefix(HUB)
    return name[:_CUT].lstrip("./~ ").rstrip() or "model"

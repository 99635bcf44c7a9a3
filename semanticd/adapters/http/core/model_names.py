"""Resolves a model's name in a request: as spelled, then in simplified spellings, then as the current model.

Clients put a provider's name in front (`openai/default`), a tag behind (`:latest`), and do not mind capitals.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

PROVIDERS = (
    "anthropic",
    "custom_openai",
    "hosted_vllm",
    "litellm_proxy",
    "lm_studio",
    "local",
    "ollama",
    "ollama_chat",
    "openai",
    "openai-compatible",
    "openai_compatible",
    "openrouter",
    "semanticd",
    "vllm",
)
"""Provider prefixes that some libraries send in front of a model name."""

_TAG = ":latest"


def spellings(name: str) -> list[str]:
    """Return the name, then without tag and provider, then the same in lower case; no spelling twice."""
    untagged = name[: -len(_TAG)] if name.lower().endswith(_TAG) else name
    found = [name, untagged]
    while untagged.partition("/")[0].lower() in PROVIDERS and "/" in untagged:
        untagged = untagged.partition("/")[2]
        found.append(untagged)
    found += [spelling.lower() for spelling in found]
    return [spelling for spelling in dict.fromkeys(found) if spelling]


def among(name: str, known: Iterable[str]) -> str | None:
    """Return which known name a request's name means, capitals aside; None when there is no such name."""
    by_spelling = {one.casefold(): one for one in known}
    return next((by_spelling[s.casefold()] for s in spellings(name) if s.casefold() in by_spelling), None)


def means_current(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches a pattern of names that stand for the current model, capitals aside."""
    wanted = [pattern.lower() for pattern in patterns]
    return any(fnmatchcase(spelling.lower(), pattern) for spelling in spellings(name) for pattern in wanted)

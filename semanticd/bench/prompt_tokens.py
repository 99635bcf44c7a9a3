"""A prompt's token ids by the server's own tokenizer, and how much of a prompt was seen before.

**Reusable tokens** of a request: the longest common beginning, in tokens, of its prompt with any prompt that the same
server has answered in this replay, whichever agent sent it; at most all but the last token, which every server has to
compute. Answers do not count as seen: a replay sends what the recorded program said next, not what this model answered.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx

from semanticd.bench.as_chat import PATH as CHAT_PATH
from semanticd.bench.as_chat import as_chat
from semanticd.bench.errors import BenchError

_ITEM = array("q").itemsize


class PromptTokens(Protocol):
    """A source of token ids; `name` says in reports whose tokenizer it is."""

    name: str

    async def ids(
        self, dialect: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Sequence[int]:
        """Return the ids of the prompt that this body is."""


class ServerTokens:
    """Asks semanticd, which makes the prompt as it does for an answer."""

    name = "the server (/v1/tokenize)"

    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._url = f"{base_url}/v1/tokenize"

    async def ids(
        self, dialect: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Sequence[int]:
        """Return what the server answers.

        Raises:
            BenchError: The server refuses, or cannot be reached.
        """
        ids: list[int] = await _asked(
            self._http, self._url, "tokens", json=body, params={"path": path}, headers=dict(headers)
        )
        return ids


class LlamaTokens:
    """Asks llama.cpp's server: its template first, then its tokenizer."""

    name = "the server (/apply-template, /tokenize)"

    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._base_url = base_url

    async def ids(
        self, dialect: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Sequence[int]:
        """Return the ids of the rendered chat.

        Raises:
            BenchError: The server refuses, or cannot be reached.
        """
        template, tokenize = f"{self._base_url}/apply-template", f"{self._base_url}/tokenize"
        prompt = await _asked(self._http, template, "prompt", json=as_chat(dialect, body))
        content = {"content": prompt, "add_special": True, "parse_special": True}
        ids: list[int] = await _asked(self._http, tokenize, "tokens", json=content)
        return ids


async def _asked(http: httpx.AsyncClient, url: str, name: str, **sent: Any) -> Any:
    """Return one field of what a server answers.

    Raises:
        BenchError: The server has no such answer.
    """
    try:
        answer = await http.post(url, **sent)
    except httpx.TransportError as error:
        raise BenchError(f"{url} failed ({error!r})") from error
    if answer.status_code != 200:
        raise BenchError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
    try:
        return answer.json()[name]
    except (ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{url} answered without {name}: {answer.text[:200]}") from error


class FolderTokens:
    """The tokenizer and chat template of a model's folder, which is the one that the server has loaded."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            BenchError: The folder holds no tokenizer.
        """
        from transformers import AutoTokenizer

        self.name = str(folder)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError) as error:
            raise BenchError(f"{folder} holds no tokenizer that can be loaded: {error}") from error

    async def ids(
        self, dialect: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Sequence[int]:
        """Render the chat with the folder's template."""
        chat = as_chat(dialect, body)
        made: Any = self._tokenizer.apply_chat_template(
            chat["messages"],
            tools=chat.get("tools"),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return [int(token) for token in made]


async def token_source(
    http: httpx.AsyncClient, base_url: str, *, folder: Path | None, model: str, tell: Callable[[str], None]
) -> PromptTokens | None:
    """Return the folder's tokenizer, else the server's own, else None, with the reason passed to `tell`.

    Raises:
        BenchError: The folder holds no tokenizer.
    """
    if folder is not None:
        return FolderTokens(folder)
    hello = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    sources: tuple[PromptTokens, ...] = (ServerTokens(http, base_url), LlamaTokens(http, base_url))
    for source in sources:
        if await _works(source, hello):
            return source
    tell(
        "warning: this server has no tokenizer to ask, so reusable tokens are not known; "
        "give its model's folder with --tokenizer"
    )
    return None


async def _works(source: PromptTokens, hello: Mapping[str, Any]) -> bool:
    try:
        await source.ids("chat", CHAT_PATH, hello, {})
    except (BenchError, httpx.HTTPError):
        return False
    return True


class SeenPrompts:
    """All prompts that were answered so far."""

    def __init__(self) -> None:
        """Begin with none."""
        self._prompts: list[bytes] = []

    def add(self, ids: Sequence[int]) -> None:
        """Note a prompt that was answered."""
        self._prompts.append(array("q", ids).tobytes())

    def reusable(self, ids: Sequence[int]) -> int:
        """Return how many of its first tokens were seen before, at most all but the last."""
        prompt = array("q", ids).tobytes()
        longest = max((_common(prompt, seen) for seen in self._prompts), default=0)
        return min(longest // _ITEM, max(len(ids) - 1, 0))


def _common(left: bytes, right: bytes) -> int:
    """Return the length of the common beginning of two texts of bytes, by halving."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

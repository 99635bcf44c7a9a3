"""The tools of a scenario: settings, client, text, progress, and conversations that scenarios share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from semanticd.bench.client import Answer, ChatClient
from semanticd.bench.errors import BenchError
from semanticd.bench.text import TextSource

READY_WITHIN_S = 180.0
FIRST_ANSWER_TOKENS = 4


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """Extent of a measurement; lengths and sizes in tokens."""

    seed: int = 1
    lengths: tuple[int, ...] = (256, 900, 2048, 4096)
    repeats: int = 3
    num_agents: int = 6
    num_turns: int = 3
    system_tokens: int = 500
    document_tokens: int = 400
    answer_tokens: int = 16
    streams: tuple[int, ...] = (1, 4, 8)
    decode_tokens: int = 48
    prefill_tokens: int = 1500
    dropped_tokens: int = 4000


@dataclass(slots=True)
class Conversation:
    """One agent's messages so far, and the cost of its last turn."""

    agent: str
    messages: list[dict[str, str]] = field(default_factory=list)
    last: Answer | None = None


@dataclass(slots=True)
class BenchSession:
    """One server under measurement; `restart` and `swap` are None where the server cannot."""

    client: ChatClient
    settings: BenchSettings
    text: TextSource
    tell: Callable[[str], None]
    restart: Callable[[], Awaitable[None]] | None = None
    swap: Callable[[], Awaitable[None]] | None = None
    warnings: list[str] = field(default_factory=list)
    _conversations: dict[int, Conversation] = field(default_factory=dict)

    async def say(self, talk: Conversation, content: str, *, max_tokens: int) -> Answer:
        """Take one turn and keep the answer in the conversation."""
        talk.messages.append({"role": "user", "content": content})
        answer = await self.client.ask(talk.messages, max_tokens=max_tokens, agent=talk.agent)
        talk.messages.append({"role": "assistant", "content": answer.text})
        talk.last = answer
        return answer

    async def conversation(self, length: int) -> Conversation:
        """Return the conversation that began with a prompt of `length` tokens; scenarios share it, since it is dear."""
        if length not in self._conversations:
            talk = Conversation(agent=f"bench-{self.settings.seed}-{length}")
            answer = await self.say(
                talk, self.text.prompt(f"cold/{length}", length), max_tokens=FIRST_ANSWER_TOKENS
            )
            if answer.cached_tokens > length // 4:
                self.warn(
                    f"the server had {answer.cached_tokens} of {answer.prompt_tokens} tokens of a cold prompt cached; "
                    "measure with another --seed"
                )
            self._conversations[length] = talk
        return self._conversations[length]

    def warn(self, text: str) -> None:
        """Record and print something that makes a figure doubtful."""
        self.warnings.append(text)
        self.tell(f"warning: {text}")

    async def prepare(self) -> None:
        """Measure how many tokens a word takes; the first answer also triggers lazy loading in the server."""
        few = await self._short("calibrate/few", 50)
        many = await self._short("calibrate/many", 150)
        self.text.calibrate(num_words=100, num_tokens=many.prompt_tokens - few.prompt_tokens)

    async def wait_ready(self) -> None:
        """Send requests until the first answer arrives.

        Raises:
            BenchError: No answer came in time.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            with suppress(BenchError):
                await self._short("ready", 8)
                return
            await asyncio.sleep(0.1)
        await self._short("ready", 8)

    async def _short(self, label: str, num_words: int) -> Answer:
        message = {"role": "user", "content": self.text.words(label, num_words)}
        return await self.client.ask([message], max_tokens=2, agent=f"bench-{label}")

"""A `Generator` that answers from a script: real code without a model, for everything that sits above one.

A script is what one request is answered with: text, events, an `asyncio.Event` to wait for, or an exception.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from semanticd.application.generation.coverage import PrefixCoverage
from semanticd.application.generation.embedding import EmbeddingRequest, Embeddings
from semanticd.application.generation.text_tokens import ReadText, TextToRead
from semanticd.domain.chat import ChatPrompt, Message, Prompt, TextPrompt, ToolCallPart
from semanticd.domain.errors import ModelNotFoundError
from semanticd.domain.generation import (
    CacheReport,
    Choice,
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Started,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from semanticd.domain.ids import AgentId, ModelId, RequestId

Step = str | GenerationEvent | asyncio.Event | BaseException
Script = Sequence[Step]

TINY = ModelId("tiny")
ANONYMOUS = AgentId("anonymous")

CACHE = CacheReport(prompt_tokens=42, reused_hot_tokens=8, restored_warm_tokens=4, computed_tokens=30)
USAGE = Usage(prompt_tokens=42, completion_tokens=7, reasoning_tokens=2, cache=CACHE, stored_tokens=30)


def text_script(*pieces: str) -> Script:
    """Answer with these pieces of text."""
    return pieces


def call_script(
    name: str, arguments: dict[str, object], *, call_id: str = "call_1", index: int = 0
) -> Script:
    """Answer with one tool call whose arguments come in pieces of three characters."""
    text = json.dumps(arguments)
    pieces = [ToolCallDelta(index, text[at : at + 3]) for at in range(0, len(text), 3)]
    return [ToolCallStarted(index, call_id, name), *pieces]


@dataclass(slots=True)
class ScriptedStream:
    """One request's events as scripted; the beginning and the end are added where the script has none."""

    request: GenerationRequest
    script: Script
    on_close: Callable[[], None]
    request_id: RequestId
    agent_id: AgentId = ANONYMOUS
    model_id: ModelId = TINY
    closed: bool = False
    exhausted: bool = False
    waiting: bool = False
    """Whether the answer has come to an event of the script that is not set."""

    @property
    def adjustments(self) -> tuple[str, ...]:
        """What the request itself says."""
        return self.request.adjustments

    async def _events(self) -> AsyncIterator[GenerationEvent]:
        choices = range(self.request.num_choices)
        started = any(isinstance(step, Started) for step in self.script)
        for step in [*self.script, ""]:
            if isinstance(step, asyncio.Event):
                self.waiting = True
                await step.wait()
                self.waiting = False
                continue
            if isinstance(step, BaseException):
                raise step
            if not started:
                # As late as the script allows: what it waits for or raises first comes before any event.
                started = True
                for choice in choices:
                    yield Started(self.request_id, self.model_id, self.agent_id, CACHE, choice)
            if not isinstance(step, str):
                yield step
            elif step:
                for choice in choices:
                    yield TextDelta(step, self._logprobs(step), choice)
        if not any(isinstance(step, Finished) for step in self.script):
            called = any(isinstance(step, ToolCallStarted) for step in self.script)
            reason = FinishReason.TOOL_CALLS if called else FinishReason.STOP
            for choice in choices:
                yield Finished(reason, USAGE, None, choice)
        self.exhausted = True

    def _logprobs(self, text: str) -> tuple[TokenLogprob, ...]:
        if not self.request.sampling.logprobs:
            return ()
        rivals = tuple(
            (index, f"rival{index}", -1.0 - index) for index in range(self.request.sampling.top_logprobs)
        )
        return (TokenLogprob(1, text, -0.5, rivals),)

    def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        """Iterate once."""
        return self._events()

    async def result(self) -> GenerationResult:
        """Collect everything."""
        made = [_Collected() for _ in range(self.request.num_choices)]
        usage = USAGE
        async for event in self._events():
            if not isinstance(event, Started):
                made[event.choice].take(event)
            if isinstance(event, Finished):
                usage = event.usage
        total = replace(usage, completion_tokens=usage.completion_tokens * len(made))
        choices = tuple(choice.finish() for choice in made)
        return GenerationResult(self.request_id, self.model_id, self.agent_id, choices, total)

    async def aclose(self) -> None:
        """Note whether this cut the answer short."""
        if not self.closed:
            self.closed = True
            self.on_close()


@dataclass(slots=True)
class _Collected:
    text: str = ""
    thinking: str = ""
    names: list[tuple[str, str]] = field(default_factory=list)
    arguments: dict[int, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: Finished | None = None

    def take(self, event: GenerationEvent) -> None:
        if isinstance(event, TextDelta):
            self.text += event.text
            self.logprobs.extend(event.logprobs)
        elif isinstance(event, ThinkingDelta):
            self.thinking += event.text
        elif isinstance(event, ToolCallStarted):
            self.names.append((event.call_id, event.name))
        elif isinstance(event, ToolCallDelta):
            self.arguments[event.index] = self.arguments.get(event.index, "") + event.arguments
        elif isinstance(event, ToolCallBroken):
            self.broken.add(event.index)
            self.text += event.text
        elif isinstance(event, Finished):
            self.end = event

    def finish(self) -> Choice:
        calls = tuple(
            _call(call_id, name, self.arguments.get(index) or "{}")
            for index, (call_id, name) in enumerate(self.names)
            if index not in self.broken
        )
        assert self.end is not None
        return Choice(
            self.text, self.thinking, calls, self.end.reason, self.end.stop_sequence, tuple(self.logprobs)
        )


def _call(call_id: str, name: str, text: str) -> ToolCallPart:
    try:
        return ToolCallPart(call_id, name, json.loads(text))
    except ValueError:
        return ToolCallPart(call_id, name, {}, cut=text)


@dataclass(slots=True)
class ScriptedGenerator:
    """Answers each request with `script` (or what `script` returns for it), and remembers the requests."""

    script: Script | Callable[[GenerationRequest], Script] = ("Hello", " world")
    models: tuple[str, ...] = ("tiny",)
    requests: list[GenerationRequest] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)
    read: list[TextToRead] = field(default_factory=list)
    embedded: list[EmbeddingRequest] = field(default_factory=list)
    refusal: BaseException | None = None
    num_closed: int = 0

    async def open(self, request: GenerationRequest) -> ScriptedStream:
        """Admit a request, unless there is a refusal or the model is unknown."""
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        if request.model and request.model not in self.models:
            raise ModelNotFoundError(f"there is no model {request.model!r}; there is: tiny", param="model")
        script = self.script(request) if callable(self.script) else self.script
        stream = ScriptedStream(request, script, self._closed, request_id=request.request_id)
        if request.agent_id is not None:
            stream.agent_id = request.agent_id
        self.streams.append(stream)
        return stream

    async def open_all(self, requests: Sequence[GenerationRequest]) -> list[ScriptedStream]:
        """Admit the prompts of one body."""
        return [await self.open(request) for request in requests]

    def _closed(self) -> None:
        self.num_closed += 1

    @property
    def num_active(self) -> int:
        """Requests neither exhausted nor closed: what an engine would still compute."""
        return sum(not (stream.closed or stream.exhausted) for stream in self.streams)

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Count words."""
        if model and model not in self.models:
            raise ModelNotFoundError(f"there is no model {model!r}; there is: tiny", param="model")
        if isinstance(prompt, ChatPrompt):
            return sum(len(_words(message)) for message in prompt.messages)
        return len(prompt.text.split()) if isinstance(prompt, TextPrompt) else len(prompt.token_ids)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return as many numbers as are wanted (eight): how long the text is, and nought."""
        await self.count_tokens(request.model, TextPrompt(""))
        self.embedded.append(request)
        if self.refusal is not None:
            raise self.refusal
        size = request.dimensions or 8
        vectors = tuple(
            struct.pack(f"<{size}f", float(len(text)), *[0.0] * (size - 1)) for text in request.texts
        )
        return Embeddings(TINY, vectors, sum(map(len, request.texts)))

    async def of(self, model: str, token_ids: tuple[int, ...]) -> PrefixCoverage:
        """Say that all but the last token is hot."""
        await self.count_tokens(model, TextPrompt(""))
        return PrefixCoverage(len(token_ids), hot_tokens=len(token_ids) - 1)

    async def encode(self, model: str, text: TextToRead) -> ReadText:
        """Number the words, which are the pieces; the context has 8192 tokens."""
        self.read.append(text)
        prompt = TextPrompt(text.source) if isinstance(text.source, str) else text.source
        count = await self.count_tokens(model, prompt)
        words = text.source.split() if isinstance(text.source, str) else ["word"] * count
        pieces = tuple(word.encode() for word in words) if text.with_pieces else None
        return ReadText(tuple(range(count)), pieces, 8192)

    async def decode(self, model: str, token_ids: Sequence[int]) -> str:
        """Call each id a word."""
        await self.count_tokens(model, TextPrompt(""))
        return " ".join(f"word{token_id}" for token_id in token_ids)

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        """Number the words."""
        return tuple(range(await self.count_tokens(model, prompt)))


def _words(message: Message) -> list[str]:
    return message.text.split()

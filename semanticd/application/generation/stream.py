"""One request's events, made of the engine thread's updates, and the whole answer made of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.engine.running_sequence import (
    SequenceEnded,
    SequenceFailed,
    SequenceStarted,
    SequenceText,
    SequenceUpdate,
)
from semanticd.application.generation.recorder import TurnRecorder
from semanticd.application.ports.inference import LoadedModel, OutputParser
from semanticd.application.services.arrivals import Arrival
from semanticd.domain.chat import ChatPrompt, TokenPrompt, ToolCallPart
from semanticd.domain.errors import CancelledByCallerError
from semanticd.domain.generation import (
    Choice,
    Finished,
    FinishReason,
    GenerationEvent,
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
from semanticd.domain.json_text import parse_json_text
from semanticd.domain.limits import LIMITS

_FEW = 64
"""Number of updates that may wait regardless of size: a prompt's scores are one update."""
_UPDATE_BYTES = 256
_LOGPROB_BYTES = 128
"""Estimated bytes of Python objects besides the text."""


def _size(update: SequenceUpdate) -> int:
    if not isinstance(update, SequenceText):
        return _UPDATE_BYTES
    rivals = sum(1 + len(logprob.top) for logprob in update.logprobs)
    return _UPDATE_BYTES + len(update.text) + rivals * _LOGPROB_BYTES


class EngineStream:
    """A `GenerationStream` fed by the engine thread."""

    def __init__(
        self,
        arrival: Arrival,
        *,
        model: LoadedModel,
        prompt_text: str,
        engine: BlockPoolBatchEngine,
        recorder: TurnRecorder,
        on_end: Callable[[], None],
    ) -> None:
        """Prepare one parser per choice; nothing is submitted here.

        The request is that of `arrival`, which ends with the engine's first update: from then on the engine lists it,
        or it is over.
        `on_end` is called once on the event loop, when the stream was closed and the engine has ended every choice.
        """
        request = arrival.request
        self._on_end = on_end
        self._num_in_engine = request.num_choices
        self._is_closed = False
        self.request_id = request.request_id
        self.model_id = model.model_id
        self.agent_id = arrival.agent_id
        self._request = request
        self._engine = engine
        self._recorder = recorder
        self._arrival = arrival
        self._echo = prompt_text if request.echo else ""
        self._decode = model.tokenizer.decode
        self._updates: asyncio.Queue[tuple[int, SequenceUpdate]] = asyncio.Queue()
        self._num_waiting_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._unfinished = set(range(request.num_choices))
        self._reasoning = [_ReasoningCount() for _ in range(request.num_choices)]
        self._parsers: dict[int, OutputParser] = {}
        if request.parse_output and isinstance(request.prompt, ChatPrompt):
            for choice in range(request.num_choices):
                self._parsers[choice] = model.tokenizer.output_parser(request.prompt, choice=choice)
        self._answer = AnswerBuilder(request.num_choices)
        prefill = request.prompt.prefill if isinstance(request.prompt, ChatPrompt) else None
        ends_in_space = bool(prefill) and prefill != (prefill or "").rstrip()
        self._trimming = set(range(request.num_choices)) if ends_in_space else set()

    @property
    def adjustments(self) -> tuple[str, ...]:
        """The changes to the request that made it answerable."""
        return self._request.adjustments

    def sink(self, choice: int) -> Callable[[SequenceUpdate], None]:
        """Return the function that brings a choice's updates from the engine thread into the event loop."""

        def deliver(update: SequenceUpdate) -> None:
            try:
                self._loop.call_soon_threadsafe(self._put, choice, update)
            except RuntimeError:
                # The loop is closed: the process is ending and there is no reader.
                return

        return deliver

    def _put(self, choice: int, update: SequenceUpdate) -> None:
        """Queue an update, unless the backlog shows that its reader has stopped reading."""
        self._arrival.end()
        if isinstance(update, SequenceEnded | SequenceFailed):
            self._num_in_engine -= 1
            if self._is_closed and not self._num_in_engine:
                self._on_end()
        unread = self._updates
        if (
            self._num_waiting_bytes > LIMITS.stream_bytes
            and unread.qsize() > _FEW
            and choice in self._unfinished
        ):
            self._engine.cancel(self.request_id)
            # Queued updates are dropped: the answer is no longer complete.
            while not unread.empty():
                unread.get_nowait()
            self._num_waiting_bytes = 0
            update = SequenceFailed(
                CancelledByCallerError("the answer was cancelled: the client stopped reading it")
            )
        self._num_waiting_bytes += _size(update)
        unread.put_nowait((choice, update))

    def cancel(self) -> None:
        """Cancel the request and end the stream now: the engine cancels it with its next step, which may be long."""
        self._engine.cancel(self.request_id)
        cancelled = SequenceFailed(CancelledByCallerError(f"request {self.request_id} was cancelled"))
        self._num_waiting_bytes += _size(cancelled)
        self._updates.put_nowait((min(self._unfinished, default=0), cancelled))

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        try:
            while self._unfinished:
                choice, update = await self._updates.get()
                self._num_waiting_bytes = max(0, self._num_waiting_bytes - _size(update))
                for event in self._translate(choice, update):
                    self._answer.add(event)
                    if isinstance(event, Finished) and not self._unfinished:
                        # Before the client hears of the end, for it may ask for the next turn at once.
                        self._recorder.answered(self._request, self.agent_id, self._result())
                        self._recorder.end_turn(self.agent_id, self.request_id)
                        event = await self._kept(event)
                    yield event
        finally:
            await self.aclose()
            if num_failures := self.num_parse_failures:
                self._recorder.parse_failures(self.request_id, self.model_id, num_failures)

    async def _kept(self, finished: Finished) -> Finished:
        """Return the last event once the turn is on disk, where the server keeps it; the event reports if it is not."""
        if await self._recorder.is_kept(self._request, self.agent_id):
            return finished
        finished = replace(finished, usage=replace(finished.usage, is_unsaved=True))
        self._answer.add(finished)
        return finished

    async def result(self) -> GenerationResult:
        """Collect all events into one result."""
        async for _ in self:
            pass
        return self._result()

    async def aclose(self) -> None:
        """Cancel the unfinished part."""
        self._arrival.end()
        if self._unfinished:
            self._unfinished.clear()
            self._engine.cancel(self.request_id)
        self._recorder.end_turn(self.agent_id, self.request_id)
        if not self._is_closed:
            self._is_closed = True
            if not self._num_in_engine:
                self._on_end()

    def _result(self) -> GenerationResult:
        return GenerationResult(
            self.request_id, self.model_id, self.agent_id, self._answer.choices(), self._answer.usage()
        )

    def _translate(self, choice: int, update: SequenceUpdate) -> list[GenerationEvent]:
        if isinstance(update, SequenceFailed):
            self._unfinished.discard(choice)
            raise update.error
        if isinstance(update, SequenceStarted):
            started = Started(self.request_id, self.model_id, self.agent_id, update.cache, choice)
            self._recorder.started(started)
            echo = self._echo if not self._request.sampling.logprobs else ""
            return [started, TextDelta(echo, choice=choice)] if echo else [started]
        if isinstance(update, SequenceText):
            return self._text(choice, update)
        cut = update.reason is FinishReason.LENGTH
        events = self._parsers[choice].finish(cut=cut) if choice in self._parsers else []
        events = self._joined_to_prefill(choice, events)
        self._reasoning[choice].see(events, update.usage.completion_tokens)
        self._unfinished.discard(choice)
        return [*events, self._finished(choice, update)]

    def _text(self, choice: int, update: SequenceText) -> list[GenerationEvent]:
        if self._echo and self._request.sampling.logprobs:
            # The prompt's scores come first, in one piece.
            echo, self._echo = self._echo, ""
            return [TextDelta(echo, self._with_first_token(update.logprobs), choice)]
        parser = self._parsers.get(choice)
        if parser is None:
            return [TextDelta(update.text, update.logprobs, choice)]
        events = self._joined_to_prefill(choice, parser.feed(update.text))
        self._reasoning[choice].see(events, update.num_tokens)
        if not update.logprobs:
            return events
        for index, event in enumerate(events):
            if isinstance(event, TextDelta):
                events[index] = replace(event, logprobs=update.logprobs)
                return events
        return [*events, TextDelta("", update.logprobs, choice)]

    def _joined_to_prefill(self, choice: int, events: list[GenerationEvent]) -> list[GenerationEvent]:
        """Leave out white space that the client's own beginning of the answer ends with already."""
        if choice not in self._trimming:
            return events
        joined: list[GenerationEvent] = []
        for event in events:
            if choice in self._trimming and isinstance(event, TextDelta):
                event = replace(event, text=event.text.lstrip())
                if not event.text:
                    continue
            self._trimming.discard(choice)
            joined.append(event)
        return joined

    def _with_first_token(self, logprobs: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
        prompt = self._request.prompt
        if isinstance(prompt, TokenPrompt) and prompt.token_ids:
            first = prompt.token_ids[0]
            return (TokenLogprob(first, self._decode([first]), math.nan), *logprobs)
        text = self._request.prompt.text if hasattr(self._request.prompt, "text") else ""
        rest = "".join(entry.text for entry in logprobs)
        return (TokenLogprob(-1, text[: len(text) - len(rest)], math.nan), *logprobs)

    def _finished(self, choice: int, update: SequenceEnded) -> Finished:
        reason = update.reason
        parser = self._parsers.get(choice)
        if reason is FinishReason.STOP and parser is not None and parser.num_tool_calls:
            reason = FinishReason.TOOL_CALLS
        usage, num_reasoned = update.usage, self._reasoning[choice].num_tokens
        if num_reasoned:
            usage = replace(usage, reasoning_tokens=num_reasoned)
        finished = Finished(reason, usage, update.stop_sequence, choice)
        self._recorder.finished(self._request, self.model_id, finished)
        return finished

    @property
    def num_parse_failures(self) -> int:
        """Tool calls so far that could not be read."""
        return sum(parser.num_parse_failures for parser in self._parsers.values())


class _ReasoningCount:
    """Counts the tokens that an answer's thinking took, as its text comes."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._counted = 0

    def see(self, events: Sequence[GenerationEvent], num_tokens: int) -> None:
        """Take the events that the answer's first `num_tokens` tokens have led to since the last ones."""
        if not events:
            # A marker that is not complete: its tokens belong to what follows.
            return
        if isinstance(events[0], ThinkingDelta):
            self.num_tokens += num_tokens - self._counted
        self._counted = num_tokens


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)
    is_broken: bool = False


@dataclass(slots=True)
class _Draft:
    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None


class AnswerBuilder:
    """Adds events up to choices and usage."""

    def __init__(self, num_choices: int) -> None:
        self._drafts = [_Draft() for _ in range(num_choices)]

    def add(self, event: GenerationEvent) -> None:
        """Take one event."""
        draft = self._drafts[event.choice]
        if isinstance(event, TextDelta):
            draft.text.append(event.text)
            draft.logprobs.extend(event.logprobs)
        elif isinstance(event, ThinkingDelta):
            draft.thinking.append(event.text)
        elif isinstance(event, ToolCallStarted):
            draft.calls.append(_Call(event.call_id, event.name))
        elif isinstance(event, ToolCallDelta):
            draft.calls[event.index].arguments.append(event.arguments)
        elif isinstance(event, ToolCallBroken):
            draft.calls[event.index].is_broken = True
            draft.text.append(event.text)
        elif isinstance(event, Finished):
            draft.finished = event

    def choices(self) -> tuple[Choice, ...]:
        """Return the answers so far; one that has not finished counts as cancelled."""
        return tuple(
            Choice(
                text="".join(draft.text),
                thinking="".join(draft.thinking),
                tool_calls=tuple(_call(call) for call in draft.calls if not call.is_broken),
                reason=draft.finished.reason if draft.finished else FinishReason.CANCELLED,
                stop_sequence=draft.finished.stop_sequence if draft.finished else None,
                logprobs=tuple(draft.logprobs),
            )
            for draft in self._drafts
        )

    def usage(self) -> Usage:
        """Return the first choice's usage with the output tokens of all choices: the prompt counts once."""
        usages = [draft.finished.usage for draft in self._drafts if draft.finished]
        if len(usages) <= 1:
            return usages[0] if usages else Usage()
        return replace(
            usages[0],
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
            is_cut_short=any(usage.is_cut_short for usage in usages),
            is_unsaved=any(usage.is_unsaved for usage in usages),
        )


def _call(call: _Call) -> ToolCallPart:
    text = "".join(call.arguments)
    try:
        arguments = parse_json_text(text) if text else {}
    except ValueError:
        return ToolCallPart(call.call_id, call.name, {}, cut=text)
    return ToolCallPart(call.call_id, call.name, arguments if isinstance(arguments, dict) else {})

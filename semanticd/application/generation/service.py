"""Answering one request: resolve the model, find the agent, render, tokenize, submit, and follow the events."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Protocol

from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.engine.running_sequence import (
    Submission,
)
from semanticd.application.generation.boundaries import PromptBoundaries
from semanticd.application.generation.continued import NOTHING_TO_ANSWER, continued
from semanticd.application.generation.places import COUNTING, ReadingPlaces
from semanticd.application.generation.prompt_size import (
    check_biases,
    check_characters,
    check_size,
    check_tool_choice,
    check_vocabulary,
)
from semanticd.application.generation.recorder import TurnRecorder
from semanticd.application.generation.stream import EngineStream
from semanticd.application.ports.inference import LoadedModel, Tokenizer
from semanticd.application.services.arrivals import Arrival, Arrivals
from semanticd.application.services.model_routing import ModelRouting
from semanticd.domain.agent_name import stand_in
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from semanticd.domain.conversation_key import ConversationKey, anonymous_id, conversation_key
from semanticd.domain.errors import InvalidRequestError, PromptTooLongError
from semanticd.domain.generation import (
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    OutputConstraint,
)
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.transcript import Cut, Segment, outside_vocabulary, token_ids_of
from semanticd.domain.volatile_sections import VOLATILE_SECTIONS, with_sections_behind_tools

_TAIL_TOKENS = 8
"""As far back as a tokenizer looks when it decides where to cut."""


class GenerationStream(Protocol):
    """One request's events, in order; closing it early cancels the request."""

    request_id: RequestId
    model_id: ModelId
    agent_id: AgentId

    @property
    def adjustments(self) -> tuple[str, ...]:
        """The changes to the request that made it answerable, as `name=detail`."""

    def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        """Iterate once over the events.

        Raises:
            SemanticError: The error that ended the request early.
        """

    async def result(self) -> GenerationResult:
        """Collect all events into one result."""

    async def aclose(self) -> None:
        """Cancel the unfinished part; idempotent."""


class Generator(Protocol):
    """The interface for the HTTP dialects; `GenerateService` below implements it."""

    async def open(self, request: GenerationRequest) -> GenerationStream:
        """Admit a request.

        Raises:
            SemanticError: Before any event: the model is unknown, the prompt is too long, the queue is full, ...
        """

    async def open_all(self, requests: Sequence[GenerationRequest]) -> Sequence[GenerationStream]:
        """Admit the prompts of one body, which have an agent and a number of choices in common, all or none."""

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Return the prompt's length in tokens."""

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids, as a request would have them now."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request's tokens, and the values derived from them; see `Submission`."""

    agent_id: AgentId
    text: str
    segments: tuple[Segment, ...]
    max_new_tokens: int
    constraint: OutputConstraint | None
    points: tuple[int, ...]
    system_tokens: int
    changes: tuple[str, ...]
    chain: BlockChain
    salt: str
    turn_start: Cut | None
    conversation: ConversationKey | None
    held: tuple[AgentId, ...]
    """The agents that may get the turn, which the registry keeps in memory for it."""


class GenerateService:
    """Turns requests into submissions and submissions' updates into events."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        agents: AgentRegistry,
        routing: ModelRouting,
        places: ReadingPlaces,
        recorder: TurnRecorder,
        arrivals: Arrivals,
        move_volatile: bool = False,
    ) -> None:
        """Answer with these models on this engine.

        Prompts are read for as many requests as `places` has; `recorder` writes down what each turn cost, and
        `arrivals` lists what is on its way to the engine. With `move_volatile`, see `volatile_sections`.
        """
        self._move_volatile = move_volatile
        self._places = places
        self._engine = engine
        self._agents = agents
        self._routing = routing
        self._recorder = recorder
        self._arrivals = arrivals
        self._boundaries = PromptBoundaries()
        # One thread of its own: forms that take long must not take the threads that read prompts.
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="semanticd-forms")

    async def open(self, request: GenerationRequest) -> EngineStream:
        """Admit a request; see `Generator.open`. Its place in the queue comes first, the work after."""
        [stream] = await self.open_all([request])
        return stream

    async def open_all(self, requests: Sequence[GenerationRequest]) -> list[EngineStream]:
        """Admit the prompts of one body; see `Generator.open_all`. Places for all of them come first."""
        agent_id, num_choices = requests[0].agent_id, requests[0].num_choices
        self._engine.check_size(len(requests), num_choices, anonymous=agent_id is None)
        streams: list[EngineStream] = []
        holder = _holder_of(requests[0])
        with (
            self._places.take(agent_id, len(requests) * num_choices, holder=holder) as taken,
            self._arrivals.of(requests) as arrivals,
        ):
            try:
                for arrival in arrivals:
                    streams.append(await self._begin(arrival))
                    taken.used(num_choices)
            except BaseException:
                for stream in streams:
                    await stream.aclose()
                raise
        return streams

    async def _begin(self, arrival: Arrival) -> EngineStream:
        request = arrival.request
        await arrival.name()
        if request.agent_id is None or not request.conversation:
            return await self._open(request, arrival)
        self._recorder.begin_turn(request.agent_id, request.request_id)
        try:
            # First the conversation, for its agent may have a model of its own.
            return await self._open(await asyncio.to_thread(self._with_conversation, request), arrival)
        except BaseException:
            self._recorder.end_turn(request.agent_id, request.request_id)
            raise

    async def _open(self, request: GenerationRequest, arrival: Arrival) -> EngineStream:
        async with self._routing.lease(request.model) as model:
            arrival.has_model(model.model_id)
            return await self._submit(request, model, arrival)

    async def _submit(self, request: GenerationRequest, model: LoadedModel, arrival: Arrival) -> EngineStream:
        request = model.defaults.of_request(request)
        check_biases(request.sampling.logit_bias, model.tokenizer.vocab_size)
        # One trip to a worker thread: each costs more than what a short prompt needs done there.
        ready = await self._ready(model, request)
        arrival.was_read(ready.agent_id, ready.segments, max_new_tokens=ready.max_new_tokens)
        try:
            return await self._submit_ready(ready, model, request, arrival)
        except BaseException:
            self._agents.release(ready.held)
            raise

    async def _ready(self, model: LoadedModel, request: GenerationRequest) -> _Prepared:
        # As `asyncio.to_thread`, without a task for it.
        run = contextvars.copy_context().run
        preparing = asyncio.get_running_loop().run_in_executor(None, run, self._prepare, model, request)
        try:
            return await asyncio.shield(preparing)
        except asyncio.CancelledError:
            # The thread continues, and then holds agents that nothing else releases.
            preparing.add_done_callback(self._let_go)
            raise

    def _let_go(self, preparing: asyncio.Future[_Prepared]) -> None:
        if not preparing.cancelled() and preparing.exception() is None:
            self._agents.release(preparing.result().held)

    async def _submit_ready(
        self, ready: _Prepared, model: LoadedModel, request: GenerationRequest, arrival: Arrival
    ) -> EngineStream:
        constraint = await self._compiled(model, ready.constraint)
        request = _stopped_where_visible(model, request, constraint)
        if constraint is not None and constraint.not_enforced:
            words = f"not_enforced={','.join(constraint.not_enforced)}"
            request = replace(request, adjustments=(*request.adjustments, words))
        agent_id = ready.agent_id
        arrival.request = request
        stream = EngineStream(
            arrival,
            model=model,
            prompt_text=request.prompt.text if isinstance(request.prompt, TextPrompt) else ready.text,
            engine=self._engine,
            recorder=self._recorder,
            on_end=partial(self._agents.release, ready.held),
        )
        seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(31)
        self._engine.submit(
            *(
                Submission(
                    request_id=request.request_id,
                    agent_id=agent_id,
                    model_id=model.model_id,
                    segments=ready.segments,
                    sampling=request.sampling,
                    max_new_tokens=ready.max_new_tokens,
                    seed=seed + choice,
                    sink=stream.sink(choice),
                    constraint=constraint,
                    priority=request.priority,
                    snapshot_points=ready.points,
                    score_prompt=request.echo and request.sampling.logprobs,
                    choice=choice,
                    cache_ttl_s=request.cache_ttl_s,
                    records_turn=choice == 0 and not request.echo,
                    anonymous=request.agent_id is None,
                    share=_share_of(request),
                    held_by=_holder_of(request),
                    system_tokens=ready.system_tokens,
                    trace_parent=request.trace_parent,
                    canonicalized=ready.changes,
                    turn_start=ready.turn_start,
                    chain=ready.chain,
                    salt=ready.salt,
                    root=ready.chain.root,
                    main_agent_id=request.agent_id,
                    conversation=ready.conversation,
                    arrived_at=arrival.arrived_at,
                    waited=arrival.waited,
                )
                for choice in range(request.num_choices)
            )
        )
        arrival.submitted(stream.cancel)
        return stream

    async def _compiled(
        self, model: LoadedModel, constraint: OutputConstraint | None
    ) -> OutputConstraint | None:
        """Return the constraint with its form; a new form waits for its turn, and holds up nothing but new forms."""
        if constraint is None or constraint.compiled is not None:
            return constraint
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._compiling, model.tokenizer.compile_constraint, constraint)

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Return the prompt's length in tokens."""
        return len(await self.tokenize(model, prompt))

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids; what is known of its beginning keeps the ids it was computed from."""
        with self._places.take(None, 1, holder=COUNTING):
            async with self._places.to_count, self._routing.lease(model) as loaded:
                _, segments = await self._places.count(
                    partial(self._tokenize, loaded, self._arranged(loaded.defaults.of_prompt(prompt)))
                )
        return token_ids_of(segments)

    # Worker threads.

    def _prepare(self, model: LoadedModel, request: GenerationRequest) -> _Prepared:
        """Do all that takes time before a request can be submitted.

        Raises:
            SemanticError: The request itself is invalid.
        """
        check_tool_choice(request.prompt)
        agent_id = request.agent_id or anonymous_id(request.prompt)
        salt = self._agents.salt_of(agent_id)
        follows = self._text_before(agent_id) if request.follows_text else ""
        # Messages that follow a text have no tools behind them.
        prompt = request.prompt if follows else self._arranged(request.prompt)
        text, segments = self._tokenize(model, prompt, salt=salt, follows=follows)
        num_tokens = sum(segment.num_tokens for segment in segments)
        if num_tokens == 0:
            raise InvalidRequestError("the prompt is empty: send at least one token", param="prompt")
        if num_tokens >= model.context_length + (request.sampling.max_tokens == 0):
            raise PromptTooLongError(num_tokens=num_tokens, maximum=model.context_length - 1)
        room = model.context_length - num_tokens
        wanted = request.sampling.max_tokens
        max_new_tokens = room if wanted is None else min(wanted, room)
        constraint = self._constraint(model, request, max_new_tokens)
        points, system_tokens = ((), 0) if follows else self._boundaries_of(model, prompt, text, segments)
        named = request.agent_id is not None and not request.conversation
        conversation = conversation_key(prompt) if named else None
        spec = model.runner.spec
        # The end of the turn chooses one of these, by the state that it finds; held last, once nothing can fail.
        held = (agent_id, *([] if conversation is None else [AgentId(conversation.name_below(agent_id))]))
        chain = spec.chain(token_ids_of(segments), root=spec.root_of(salt))
        changes = model.tokenizer.canonical_changes(prompt) if isinstance(prompt, ChatPrompt) else ()
        if prompt is not request.prompt:
            changes = (*changes, VOLATILE_SECTIONS)
        holder = self._agents.holder(agent_id, conversation, segments)
        turn_start = self._turn_start(model, prompt, text, segments, agent_id=holder)
        self._agents.hold(held)
        return _Prepared(
            agent_id=self._agents.holder(agent_id, conversation, segments),
            text=text,
            segments=segments,
            max_new_tokens=max_new_tokens,
            constraint=constraint,
            points=points,
            system_tokens=system_tokens,
            changes=changes,
            chain=chain,
            salt=salt,
            turn_start=turn_start,
            conversation=conversation,
            held=held,
        )

    def _arranged(self, prompt: Prompt) -> Prompt:
        """Return the prompt as it is rendered: with volatile sections behind its tools, where that is wanted."""
        if not self._move_volatile or not isinstance(prompt, ChatPrompt):
            return prompt
        return with_sections_behind_tools(prompt)

    def _constraint(
        self, model: LoadedModel, request: GenerationRequest, max_tokens: int
    ) -> OutputConstraint | None:
        """Return the form that the answer must have, led to its end within `max_tokens`; a known one is compiled."""
        tokenizer, constraint = model.tokenizer, request.constraint
        if isinstance(request.prompt, ChatPrompt):
            constraint = tokenizer.tool_constraint(request.prompt, constraint)
            constraint = tokenizer.with_thinking(
                request.prompt, constraint, budget=request.thinking_budget, max_tokens=max_tokens
            )
        if constraint is None:
            return None
        constraint = replace(constraint, max_tokens=max_tokens, may_relax=request.relax_form)
        return tokenizer.find_constraint(constraint) or constraint

    def _tokenize(
        self, model: LoadedModel, prompt: Prompt, *, salt: str = "", follows: str = ""
    ) -> tuple[str, tuple[Segment, ...]]:
        """Return a prompt's text and tokens; messages may follow an agent's own text."""
        tokenizer = model.tokenizer
        check_size(prompt, model.context_length)
        if isinstance(prompt, TokenPrompt):
            check_vocabulary(prompt.token_ids, tokenizer.vocab_size, param="prompt")
            text = tokenizer.decode(prompt.token_ids)
            return text, (Segment(text, prompt.token_ids),)
        if isinstance(prompt, TextPrompt):
            text = tokenizer.raw_text(prompt.text)
        else:
            text = continued(tokenizer, follows, prompt) if follows else tokenizer.render(prompt)
        check_characters(len(text), model.context_length)
        with self._agents.lock:
            segments = self._agents.transcripts(model.fingerprint, salt=salt).match(text).segments
        # Imports by earlier versions may hold any numbers, for which the model would read beyond its tables.
        segments = tuple(
            takewhile(lambda one: outside_vocabulary(one.token_ids, tokenizer.vocab_size) is None, segments)
        )
        while segments:
            rest = text[sum(len(segment.text) for segment in segments) :]
            rest_ids = _encode_after(tokenizer, segments[-1], rest)
            if rest_ids is not None:
                return text, (*segments, Segment(rest, rest_ids)) if rest else segments
            segments = segments[:-1]
        return text, (Segment(text, tuple(tokenizer.encode(text))),) if text else ()

    def _boundaries_of(
        self, model: LoadedModel, prompt: Prompt, text: str, segments: tuple[Segment, ...]
    ) -> tuple[tuple[int, ...], int]:
        """Return positions worth a snapshot, and how many tokens are system text and tools."""
        if not isinstance(prompt, ChatPrompt):
            return (), 0
        return self._boundaries.find(model, prompt, text, segments)

    def _text_before(self, agent_id: AgentId) -> str:
        agent = self._agents.find(agent_id)
        return "" if agent is None else agent.transcript.text

    def _turn_start(
        self,
        model: LoadedModel,
        prompt: Prompt,
        text: str,
        segments: tuple[Segment, ...],
        *,
        agent_id: AgentId,
    ) -> Cut | None:
        """Return where the new turn begins, if the prompt does not just follow what its agent has."""
        agent = self._agents.find(agent_id)
        known = () if agent is None else agent.transcript.segments
        if not known or segments[: len(known)] == known or not isinstance(prompt, ChatPrompt):
            return None
        return self._boundaries.turn_start(model.tokenizer, prompt, text, segments)

    def _with_conversation(self, request: GenerationRequest) -> GenerationRequest:
        """Put the kept conversation, system text and tools of a server-side agent before the new messages.

        Where a client keeps the conversation, the messages follow its text instead.
        """
        if request.agent_id is None:
            return request
        agent = self._agents.find(request.agent_id)
        if agent is None or not request.conversation or not isinstance(request.prompt, ChatPrompt):
            return request
        prompt = request.prompt
        kept = agent.messages
        # A chat client's request under the agent's name left no messages, but a text.
        follows_text = not agent.messages and bool(agent.transcript.segments)
        if not prompt.messages and not follows_text and not (kept and kept[-1].role in ("user", "tool")):
            raise InvalidRequestError(NOTHING_TO_ANSWER, param="prompt")
        if agent.config.system and not any(m.role == "system" for m in (*kept, *prompt.messages)):
            kept = (Message.of("system", agent.config.system), *kept)
        return replace(
            request,
            model=request.model or agent.config.model or "",
            prompt=replace(
                prompt,
                messages=prompt.messages if follows_text else (*kept, *prompt.messages),
                tools=prompt.tools or agent.config.tools,
            ),
            priority=agent.config.priority,
            follows_text=follows_text,
        )


_BARE_FORMS = ("json_object", "json_schema", "regex", "lark")


def _share_of(request: GenerationRequest) -> str:
    """Return whose share of engine time, and whose places, a request uses."""
    return request.agent_id or stand_in(request.share or request.request_id)


def _holder_of(request: GenerationRequest) -> str:
    """Return who takes its place: its agent, its client with all that is asked without one, or its body."""
    if request.agent_id is None and request.client:
        return stand_in(f"client {request.client}")
    return _share_of(request)


def _stopped_where_visible(
    model: LoadedModel, request: GenerationRequest, constraint: OutputConstraint | None
) -> GenerationRequest:
    """Return the request with stop strings that count only in text that the client sees."""
    sampling, prompt = request.sampling, request.prompt
    if not isinstance(sampling.stop, tuple) or not sampling.stop:
        return request
    if not isinstance(prompt, ChatPrompt) or not request.parse_output:
        return request
    formed = constraint is not None and constraint.kind in _BARE_FORMS
    stops = model.tokenizer.visible_stops(prompt, sampling.stop, formed=formed)
    return replace(request, sampling=replace(sampling, stop=stops))


def _encode_after(tokenizer: Tokenizer, known: Segment, rest: str) -> tuple[int, ...] | None:
    """Return the ids of text that follows a known segment; None where one token would span both.

    Between the turns of a chat there is a special token, so that never happens there; raw text may be cut anywhere.
    """
    tail = tokenizer.decode(known.token_ids[-_TAIL_TOKENS:])
    before = tokenizer.encode(tail)
    both = tokenizer.encode(tail + rest)
    return tuple(both[len(before) :]) if both[: len(before)] == before else None

"""The OpenAI responses dialect's resources that work on a conversation: answer it, count it, sum it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import UNSET

from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import CURRENT_MODEL, IN_MEMORY_ONLY, Gateway
from semanticd.adapters.http.core.request_context import (
    RequestContext,
    agent_id_of,
    make_id,
    priority_of,
    request_context_of,
    show_cache,
)
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.openai.responses import wire
from semanticd.adapters.http.openai.responses.compaction import asking_for_a_summary, compacted, summary_in
from semanticd.adapters.http.openai.responses.items import input_items, output_items, read_items
from semanticd.adapters.http.openai.responses.parse import Parsed, is_reference, items_of, parse
from semanticd.adapters.http.openai.responses.reasoning import ReasoningForm, signing_key
from semanticd.adapters.http.openai.responses.render import (
    Diagnose,
    begin,
    diagnosis,
    render,
    render_usage,
    summary_of,
)
from semanticd.adapters.http.openai.responses.stored import previous_of
from semanticd.adapters.http.openai.responses.stream import ResponseStream
from semanticd.adapters.http.openai.responses.truncation import without_oldest_turns
from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.application.services.saving import SAVED_WITHIN_S, saved_within
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.domain.errors import InvalidRequestError, PromptTooLongError
from semanticd.domain.generation import GenerationRequest
from semanticd.domain.ids import AgentId

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream

_Body = TypeVar("_Body", bound=wire.ResponsesRequest)


class Conversations:
    """Reads requests together with the stored responses and items that they continue from."""

    def __init__(self, gateway: Gateway, config: HttpConfig, responses: StoredResponses) -> None:
        """Answer through a gateway; `responses` holds what may be gone on from."""
        self.gateway = gateway
        self.responses = responses
        self.key = signing_key(config.api_keys)
        self._config = config

    async def read(self, req: Request, wire_type: type[_Body]) -> tuple[_Body, StoredResponse | None, Parsed]:
        """Return a request's body, the response that it continues from, and the parsed request."""
        exchange = request_context_of(req)
        body = await read_object(req, wire_type, self._config)
        items = items_of(body)
        if len(items) > self._config.max_messages:
            raise InvalidRequestError(f"expected at most {self._config.max_messages} items", param="input")
        previous = await previous_of(self.responses, body.previous_response_id)
        found, elsewhere = await translated(
            req, partial(_referred, items, previous), with_more=previous is not None
        )
        for item_id in elsewhere:
            document = await self.responses.item(item_id)
            if document is not None:
                found[item_id] = document
        agent_id = agent_id_of(req, body.prompt_cache_key, body.user, previous.agent_id if previous else None)

        def reading() -> Parsed:
            return parse(
                body,
                earlier=read_items(previous.items) if previous else (),
                request_id=exchange.request_id,
                agent_id=agent_id,
                priority=priority_of(req, service_tier=body.service_tier),
                look_up=lambda item_id: msgspec.json.decode(found[item_id]) if item_id in found else None,
                key=self.key,
            )

        return body, previous, await translated(req, reading, with_more=previous is not None or bool(found))

    async def open(
        self, exchange: RequestContext, request: GenerationRequest, *, truncates: bool
    ) -> GenerationStream:
        """Open a generation; with `truncates` the oldest turns are dropped until the prompt fits."""
        num_dropped = 0
        while True:
            opened = await self._try(exchange, request)
            if not isinstance(opened, PromptTooLongError):
                return opened
            num_turns = 0
            if truncates:
                request, num_turns = without_oldest_turns(
                    request, num_tokens=opened.num_tokens, maximum=opened.maximum
                )
            if not num_turns:
                raise opened
            num_dropped += num_turns
            words = [word for word in request.adjustments if not word.startswith("turns_dropped=")]
            request = replace(request, adjustments=(*words, f"turns_dropped={num_dropped}"))

    async def _try(
        self, exchange: RequestContext, request: GenerationRequest
    ) -> GenerationStream | PromptTooLongError:
        try:
            return await self.gateway.open(exchange, request)
        except PromptTooLongError as error:
            return error


def _referred(
    items: Sequence[wire.InputItem], previous: StoredResponse | None
) -> tuple[dict[str, bytes], list[str]]:
    """Return the items of the previous response that are referred to, and the ids that must stand elsewhere."""
    references = {item.id or "" for item in items if is_reference(item)}
    # The conversation comes first: elsewhere an id that a client chose stands for nothing.
    before = previous.items if previous is not None and references else ()
    found = {item.item_id: item.document for item in before if item.item_id in references}
    return found, sorted(references - found.keys())


class Responses:
    """`POST /v1/responses`, streaming and not."""

    access: ClassVar[Access] = "key"

    def __init__(self, conversations: Conversations, *, wall: Callable[[], float]) -> None:
        """Answer conversations and keep what may be gone on from; `wall` gives the date of an answer."""
        self._conversations = conversations
        self._wall = wall
        self.saved_within_s = SAVED_WITHIN_S
        """Maximum time that an answer waits for the disk, in seconds."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Create a response."""
        exchange = request_context_of(req)
        gateway = self._conversations.gateway
        body, previous, parsed = await self._conversations.read(req, wire.ResponsesRequest)
        sealed = "reasoning.encrypted_content" in (body.include or ())
        reasoning = ReasoningForm(bool(summary_of(body)), self._conversations.key if sealed else None)
        begun = begin(
            body,
            response_id=make_id("resp_"),
            created=int(self._wall()),
            model=body.model,
            priority=parsed.request.priority,
        )
        earlier = previous.items if previous else ()
        conversation: tuple[StoredItem, ...] = ()
        if begun.store:
            build = partial(input_items, parsed.items, after=earlier)
            asked = await translated(req, build, with_more=previous is not None)
            conversation = (*earlier, *asked)
        diagnose = await self._diagnose(body, parsed.request.agent_id)
        request = parsed.request
        if begun.store and body.stream and self._conversations.responses.is_refused:
            # A stream's headers are sent before there is anything to store.
            request = replace(request, adjustments=(*request.adjustments, IN_MEMORY_ONLY))
        stream = await self._conversations.open(exchange, request, truncates=body.truncation == "auto")
        saving: list[Future[bool]] = []
        if body.stream:
            renderer = ResponseStream(
                begun,
                tools=parsed.tools,
                wall=self._wall,
                on_complete=lambda response: saving.extend(
                    self._keep(
                        response, conversation, agent_id=parsed.request.agent_id, held_by=stream.agent_id
                    )
                ),
                reasoning=reasoning,
                diagnose=diagnose,
            )
            await gateway.follow(resp, exchange, stream, renderer, before_end=lambda: self._are_saved(saving))
            return
        result = await gateway.result(exchange, stream)
        show_cache(resp, result.usage.cache)
        answer = render(
            result,
            begun,
            tools=parsed.tools,
            completed=int(self._wall()),
            reasoning=reasoning,
            diagnose=diagnose,
        )
        saving += self._keep(answer, conversation, agent_id=parsed.request.agent_id, held_by=stream.agent_id)
        if not await self._are_saved(saving):
            gateway.show_unsaved(exchange, stream)
        resp.data = msgspec.json.encode(answer)

    async def _are_saved(self, saving: Sequence[Future[bool]]) -> bool:
        """Wait, within a bound, until the disk has the data that a crash right after the answer would lose."""
        return all([await saved_within(one, self.saved_within_s) for one in saving])

    async def _diagnose(self, body: wire.ResponsesRequest, agent_id: AgentId | None) -> Diagnose:
        """Return the function that explains a cache miss, where the request names a response to compare it with."""
        options = body.prompt_cache_options
        compared_id = options.comparison_response_id if options else None
        if not compared_id:
            return lambda cache: UNSET
        compared = await self._conversations.responses.find(compared_id)
        return lambda cache: diagnosis(
            cache, found=compared is not None, same_key=compared is not None and compared.agent_id == agent_id
        )

    def _keep(
        self,
        response: wire.Response,
        conversation: tuple[StoredItem, ...],
        *,
        agent_id: AgentId | None,
        held_by: AgentId,
    ) -> list[Future[bool]]:
        """Store a response if requested; returns futures of whether the disk has it."""
        if not response.store:
            return []
        output = output_items(response.output)
        kept = self._conversations.responses.keep(
            StoredResponse(
                response_id=response.id,
                agent_id=agent_id,
                created_at=self._wall(),
                document=msgspec.json.encode(response),
                items=(*conversation, *output),
                num_output=len(output),
                held_by=held_by,
            )
        )
        return [kept]


class InputTokens:
    """`POST /v1/responses/input_tokens`: how long a request's prompt is."""

    access: ClassVar[Access] = "key"

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def on_post(self, req: Request, resp: Response) -> None:
        """Count the prompt's tokens without answering it."""
        body, _, parsed = await self._conversations.read(req, wire.InputTokensRequest)
        model = body.model or CURRENT_MODEL
        count = await self._conversations.gateway.count_tokens(model, parsed.request.prompt)
        resp.data = msgspec.json.encode(wire.InputTokens(count))


class Compact:
    """`POST /v1/responses/compact`: a shorter conversation that stands for a long one."""

    access: ClassVar[Access] = "key"

    def __init__(self, conversations: Conversations, *, wall: Callable[[], float]) -> None:
        """Sum conversations up; `wall` gives the date of an answer."""
        self._conversations = conversations
        self._wall = wall

    async def on_post(self, req: Request, resp: Response) -> None:
        """Sum a conversation up."""
        exchange = request_context_of(req)
        _, _, parsed = await self._conversations.read(req, wire.CompactRequest)
        request = asking_for_a_summary(parsed.request)
        stream = await self._conversations.open(exchange, request, truncates=True)
        result = await self._conversations.gateway.result(exchange, stream)
        show_cache(resp, result.usage.cache)
        output = compacted(parsed.said, summary_in(result), key=self._conversations.key)
        resp.data = msgspec.json.encode(
            wire.CompactedResponse(make_id("resp_"), int(self._wall()), output, render_usage(result.usage))
        )

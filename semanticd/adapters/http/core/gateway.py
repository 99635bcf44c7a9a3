"""The one way from any dialect to the generator: name the model, count requests, open, cancel at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from falcon.asgi import Response

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.conversation_check import check_conversation
from semanticd.adapters.http.core.gen_ai import GenAiFacts, TracedStream
from semanticd.adapters.http.core.model_names import among, means_current, spellings
from semanticd.adapters.http.core.rate_limit import RateLimiter
from semanticd.adapters.http.core.recording import ObservedStream
from semanticd.adapters.http.core.request_context import RequestContext
from semanticd.adapters.http.core.services import HttpServices, model_names
from semanticd.adapters.http.core.sse import StreamRenderer, respond
from semanticd.domain.chat import ChatPrompt, Prompt
from semanticd.domain.errors import CancelledByCallerError, InvalidRequestError, ModelNotFoundError
from semanticd.domain.generation import FinishReason, GenerationRequest, GenerationResult
from semanticd.domain.limits import LIMITS

if TYPE_CHECKING:
    from semanticd.application.generation.coverage import PrefixCoverage
    from semanticd.application.generation.embedding import EmbeddingRequest, Embeddings
    from semanticd.application.generation.service import GenerationStream
    from semanticd.application.generation.text_tokens import ReadText, TextToRead

T = TypeVar("T")

_MANY = 256
"""Conversations with more messages, or more parts in one, are checked outside of the event loop."""
IN_MEMORY_ONLY = "stored_in_memory_only=1"
"""Adjustment reported for a change that is not on disk: a restart would undo it."""
CURRENT_MODEL = ""
"""The generator's name for the model that is in use."""


class Gateway:
    """Opens generations for the dialects' resources."""

    def __init__(self, services: HttpServices, config: HttpConfig) -> None:
        """Serve from these services within this configuration."""
        self._services = services
        self._config = config
        self._agents = RateLimiter(
            config.rate_limit_per_agent,
            what="agent",
            monotonic=services.monotonic,
            metrics=services.metrics,
        )

    async def open(self, exchange: RequestContext, request: GenerationRequest) -> GenerationStream:
        """Admit a request; its stream is closed, hence cancelled, when the exchange ends.

        Raises:
            SemanticError: the request was not admitted.
        """
        [stream] = await self.open_all(exchange, [request])
        return stream

    async def open_all(
        self, exchange: RequestContext, requests: Sequence[GenerationRequest]
    ) -> list[GenerationStream]:
        """Admit the prompts of one body, all or none; see `open`."""
        # A body of several prompts takes a part of the queue of its own.
        client = exchange.client if len(requests) == 1 else ""
        ready = [await self._ready(exchange, one, client=client) for one in requests]
        generator = self._services.generator
        streams = await self._answering(
            ready[0].model, lambda name: generator.open_all([_asking(name, one) for one in ready])
        )
        return [
            self._opened(exchange, request, stream) for request, stream in zip(ready, streams, strict=True)
        ]

    async def _ready(
        self, exchange: RequestContext, request: GenerationRequest, *, client: str
    ) -> GenerationRequest:
        exchange.agent_id = request.agent_id
        check_counts(request)
        if request.agent_id is not None:
            self._agents.admit(request.agent_id)
        seen = await self._checked(request)
        # Each copy takes as long as reading a short body.
        return replace(
            request,
            client=client,
            relax_form=not self._config.strict,
            adjustments=(*request.adjustments, *seen),
            trace_parent=request.trace_parent if exchange.span is None else exchange.span.trace_parent,
        )

    def _opened(
        self, exchange: RequestContext, request: GenerationRequest, stream: GenerationStream
    ) -> GenerationStream:
        exchange.agent_id = stream.agent_id
        exchange.on_end(stream.aclose)
        self._show_adjustments(exchange, stream.adjustments)
        if request.trace_parent is not None:
            exchange.gen_ai = GenAiFacts(
                operation=request.operation,
                request_model=request.model or str(stream.model_id),
                response_model=str(stream.model_id),
                conversation_id=str(stream.agent_id),
                request_id=exchange.request_id,
            )
            stream = TracedStream(stream, exchange.gen_ai)
        return stream if exchange.recording is None else ObservedStream(stream, exchange.recording)

    async def _checked(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return the faults in a conversation that vendors refuse, as adjustments, or refuse them in strict mode."""
        if request.conversation or not isinstance(request.prompt, ChatPrompt):
            # Of a conversation that is kept here a request holds the end only.
            return ()
        seen, messages = Adjustments(), request.prompt.messages
        check = partial(check_conversation, messages, seen, strict=self._config.strict, param="messages")
        if len(messages) > _MANY or any(len(message.parts) > _MANY for message in messages):
            # Other streams continue meanwhile.
            await asyncio.to_thread(check)
        else:
            check()
        return seen.words

    def _show_adjustments(self, exchange: RequestContext, adjustments: Sequence[str]) -> None:
        """Report the changes to the request to the client and in the log."""
        if not adjustments:
            return
        text = " ".join(adjustments)
        exchange.answer_headers[b"x-semantic-adjusted"] = text.encode("ascii", "replace")
        self._services.log.info("request_adjusted", request_id=exchange.request_id, adjustments=text)

    async def complete(self, exchange: RequestContext, request: GenerationRequest) -> GenerationResult:
        """Answer a request that does not stream."""
        return await self.result(exchange, await self.open(exchange, request))

    async def result(self, exchange: RequestContext, stream: GenerationStream) -> GenerationResult:
        """Collect a complete answer; its headers report a cut by the KV budget, or a turn that is not on disk.

        Raises:
            CancelledByCallerError: it was cancelled, so there is no complete answer.
        """
        result = await stream.result()
        if any(choice.reason in (FinishReason.CANCELLED, FinishReason.ERROR) for choice in result.choices):
            raise CancelledByCallerError("the request was cancelled before its answer was complete")
        ended = ("answer_cut_by_kv_budget=1",) if result.usage.is_cut_short else ()
        if result.usage.is_unsaved:
            ended = (*ended, IN_MEMORY_ONLY)
        if ended:
            self._show_adjustments(exchange, (*stream.adjustments, *ended))
        return result

    def show_unsaved(self, exchange: RequestContext, stream: GenerationStream) -> None:
        """Report in the headers of a complete answer that it is not on disk."""
        self._show_adjustments(exchange, (*stream.adjustments, IN_MEMORY_ONLY))

    async def respond(
        self, resp: Response, exchange: RequestContext, request: GenerationRequest, renderer: StreamRenderer
    ) -> None:
        """Answer a request with a stream; what fails before its first event is raised."""
        await self.follow(resp, exchange, await self.open(exchange, request), renderer)

    async def follow(
        self,
        resp: Response,
        exchange: RequestContext,
        stream: GenerationStream,
        renderer: StreamRenderer,
        *,
        before_end: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Answer with a stream that is open already; its last event waits for `before_end`."""

        def on_error(error: BaseException) -> None:
            exchange.error = error
            self._services.log.warning(
                "http_stream_failed", request_id=exchange.request_id, error=repr(error)
            )

        await respond(
            resp,
            exchange,
            stream,
            renderer,
            ping_interval_s=self._config.ping_interval_s,
            on_error=on_error,
            before_end=before_end,
        )

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Return the prompt's length in tokens."""
        generator = self._services.generator
        return await self._answering(model, lambda name: generator.count_tokens(name, prompt))

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids."""
        generator = self._services.generator
        return await self._answering(model, lambda name: generator.tokenize(name, prompt))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return the vectors of texts."""
        embedder = self._services.embedder
        return await self._answering(request.model, lambda name: embedder.embed(replace(request, model=name)))

    async def encode(self, model: str, text: TextToRead) -> ReadText:
        """Return a text's token ids as the model's tokenizer has them."""
        tokens = self._services.tokens
        return await self._answering(model, lambda name: tokens.encode(name, text))

    async def coverage(self, model: str, token_ids: tuple[int, ...]) -> PrefixCoverage:
        """Return where the tokens of a prompt lie."""
        coverage = self._services.coverage
        return await self._answering(model, lambda name: coverage.of(name, token_ids))

    async def decode(self, model: str, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        tokens = self._services.tokens
        return await self._answering(model, lambda name: tokens.decode(name, token_ids))

    async def _answering(self, name: str, ask: Callable[[str], Awaitable[T]]) -> T:
        """Ask the model of this name; one that is not there may be meant by a plainer spelling or a pattern."""
        if len(name) > LIMITS.name_characters:
            raise ModelNotFoundError(
                f"a model's name has at most {LIMITS.name_characters} characters", param="model"
            )
        try:
            return await ask(name)
        except ModelNotFoundError as error:
            # Its traceback has this frame, which would hold it and all of the request until garbage is looked for.
            refusal = error.with_traceback(None)
        for spelling in spellings(name)[1:]:
            with suppress(ModelNotFoundError):
                return await ask(spelling)
        if means_current(name, self._config.model_patterns):
            return await ask(CURRENT_MODEL)
        meant = among(name, model_names(await self._services.models.list()))
        if meant is None:
            try:
                raise refusal
            finally:
                del refusal
        return await ask(meant)


def _asking(name: str, request: GenerationRequest) -> GenerationRequest:
    return request if request.model == name else replace(request, model=name)


def check_counts(request: GenerationRequest) -> None:
    """Refuse requests above the limits, in any dialect.

    Raises:
        InvalidRequestError: too many tools, stop strings or biases.
    """
    sampling, prompt = request.sampling, request.prompt
    stops = sampling.stop if isinstance(sampling.stop, tuple) else sampling.stop.stops
    num_tools = len(prompt.tools) if isinstance(prompt, ChatPrompt) else 0
    for what, count, most, param in (
        ("tools", num_tools, LIMITS.tools, "tools"),
        ("stop strings", len(stops), LIMITS.stop_strings, "stop"),
        ("characters in all stop strings", sum(map(len, stops)), LIMITS.stop_characters, "stop"),
        ("biased tokens", len(sampling.logit_bias), LIMITS.logit_biases, "logit_bias"),
    ):
        if count > most:
            raise InvalidRequestError(f"expected at most {most} {what}, got {count}", param=param)

"""The one way from any dialect to the generator: name the model, count the agent's requests, open, cancel at the end."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from falcon.asgi import Response

from semanticd.adapters.http.exchange import Exchange
from semanticd.adapters.http.http_config import HttpConfig
from semanticd.adapters.http.rate_limit import RateLimiter
from semanticd.adapters.http.services import HttpServices, model_names
from semanticd.adapters.http.sse import StreamRenderer, respond
from semanticd.application.generate import GenerationStream
from semanticd.domain.chat import Prompt
from semanticd.domain.errors import CancelledByCallerError
from semanticd.domain.generation import FinishReason, GenerationRequest, GenerationResult


class Gateway:
    """Opens generations for the dialects' resources."""

    def __init__(self, services: HttpServices, config: HttpConfig) -> None:
        """Serve from these services within this configuration."""
        self._services = services
        self._config = config
        self._agents = RateLimiter(config.rate_limit_per_agent, what="agent", monotonic=services.monotonic)

    async def open(self, exchange: Exchange, request: GenerationRequest) -> GenerationStream:
        """Admit a request; its stream is closed, hence cancelled, when the exchange ends.

        Raises:
            SemanticError: the request was not admitted.
        """
        if request.agent_id is not None:
            self._agents.admit(request.agent_id)
        resolved = replace(request, model=await self.resolve(request.model))
        stream = await self._services.generator.open(resolved)
        exchange.on_end(stream.aclose)
        return stream

    async def complete(self, exchange: Exchange, request: GenerationRequest) -> GenerationResult:
        """Answer a request that does not stream.

        Raises:
            CancelledByCallerError: somebody cancelled it, so there is no whole answer.
        """
        stream = await self.open(exchange, request)
        result = await stream.result()
        if any(choice.reason in (FinishReason.CANCELLED, FinishReason.ERROR) for choice in result.choices):
            raise CancelledByCallerError("the request was cancelled before its answer was complete")
        return result

    async def respond(
        self, resp: Response, exchange: Exchange, request: GenerationRequest, renderer: StreamRenderer
    ) -> None:
        """Answer a request with a stream; what fails before its first event is raised and becomes a status."""
        stream = await self.open(exchange, request)
        await respond(
            resp,
            exchange,
            stream,
            renderer,
            ping_interval_s=self._config.ping_interval_s,
            on_error=lambda error: self._services.log.warning(
                "http_stream_failed", request_id=exchange.request_id, error=repr(error)
            ),
        )

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Return the prompt's length in tokens."""
        return await self._services.generator.count_tokens(await self.resolve(model), prompt)

    async def resolve(self, name: str) -> str:
        """Return the name itself, or the current model's for a pattern such as `claude-*` that no model is called by."""
        if not any(fnmatchcase(name, pattern) for pattern in self._config.model_patterns):
            return name
        if name in model_names(await self._services.models.list()):
            return name
        current = await self._services.models.current()
        # With none loaded (a swap may be under way) the generator decides whether to wait or to refuse.
        return name if current is None else str(current["id"])

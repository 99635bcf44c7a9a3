"""OpenTelemetry traces over OTLP/HTTP. The extra `otel` brings the library; nothing is imported before it is used.

Spans are sent in the background by the SDK's batch processor: its queue is bounded, and a full one drops spans.
Sampling, headers and resource attributes are the SDK's own environment variables (`OTEL_…`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from semanticd.application.ports.telemetry import Attribute, Phase
from semanticd.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

SERVICE_NAME = "semanticd"
_CLOSE_WITHIN_S = 3.0
_NS = 1e9


class OtelSpan:
    """A span of a request under way."""

    def __init__(self, span: Any, *, propagator: Any, set_span: Any) -> None:
        """Take over a span that began; the other two are the library's functions."""
        context = span.get_span_context()
        self._span = span
        self.trace_id = f"{context.trace_id:032x}"
        self.trace_parent: str | None = None
        if span.is_recording():
            carrier: dict[str, str] = {}
            propagator.inject(carrier, context=set_span(span))
            self.trace_parent = carrier["traceparent"]

    def end(self, *, failed: bool, **attributes: Attribute) -> None:
        """End the span; `__` in a name stands for a dot."""
        from opentelemetry.trace import Status, StatusCode

        for name, value in attributes.items():
            self._span.set_attribute(name.replace("__", "."), value)
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class OtelTracer:
    """The application's `Tracer` on a span processor of the OpenTelemetry SDK."""

    def __init__(self, processor: SpanProcessor, *, version: str) -> None:
        """Hand finished spans to `processor`; `version` is the daemon's."""
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME as NAME_KEY
        from opentelemetry.sdk.resources import SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({NAME_KEY: SERVICE_NAME, SERVICE_VERSION: version})
        # A provider of our own, not the process's: a program that embeds us keeps its own.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE_NAME, version)
        self._propagator = TraceContextTextMapPropagator()
        self._set_span = trace.set_span_in_context
        self._server = trace.SpanKind.SERVER

    def begin(self, name: str, *, headers: Mapping[str, str]) -> OtelSpan:
        """Begin a span now, under the caller's if `headers` hold a W3C trace context."""
        context = self._propagator.extract(headers)
        span = self._tracer.start_span(name, context=context, kind=self._server)
        return OtelSpan(span, propagator=self._propagator, set_span=self._set_span)

    def record(self, phases: Sequence[Phase], *, trace_parent: str) -> None:
        """Add finished phases as children of a span of this process."""
        context = self._propagator.extract({"traceparent": trace_parent})
        for phase in phases:
            span = self._tracer.start_span(
                phase.name,
                context=context,
                start_time=int(phase.began_at * _NS),
                attributes=dict(phase.attributes),
            )
            span.end(int(phase.ended_at * _NS))

    def close(self) -> None:
        """Send the remaining spans, for a few seconds at most: a missing collector must not delay the exit."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_WITHIN_S)


def open_tracer(endpoint: str | None, *, version: str) -> OtelTracer | None:
    """Return a tracer that sends to `endpoint` (a collector's OTLP/HTTP URL for traces); None: no tracing.

    Raises:
        ConfigurationError: The endpoint is not a URL, or the extra `otel` is not installed.
    """
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(
            f"SEMANTIC_OTLP_ENDPOINT is {endpoint!r}; expected a URL such as http://127.0.0.1:4318/v1/traces"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"SEMANTIC_OTLP_ENDPOINT is set, but OpenTelemetry is not installed ({error}); "
            "install it with `pip install 'semanticd[otel]'`, or unset the variable"
        ) from error
    return OtelTracer(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)), version=version)

"""Writes docs/metrics.md from the catalogue: `python contrib/dev/generators/metrics_docs.py` (a test compares)."""
# ruff: noqa: E501 (a row of a table is a line)

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from semanticd.adapters.telemetry.catalogue import GEN_AI, GROUPS, PREFIX, PROCESS, MetricSpec

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"

HEAD = """# Metrics and traces

## Metrics

`GET /metrics` returns metrics in Prometheus' text format. If API keys are set, it needs a key like most other routes.
Counters start at 0 when the daemon starts. Gauges are read at each scrape.

`contrib/prometheus/` contains a scrape configuration and alert rules; `contrib/grafana/semanticd.json` is a dashboard.
To try them:

```sh
curl -s http://127.0.0.1:8000/metrics | grep semanticd_tokens_total
prometheus --config.file=contrib/prometheus/scrape.yml
```

The endpoint also returns the Python runtime's own `python_…` metrics. Process metrics are read from the operating
system, on Linux and on macOS.

This page is generated from the code by `python contrib/dev/generators/metrics_docs.py`.
"""

GEN_AI_NOTE = """Some of the metrics above under a second name, for dashboards that use the
[GenAI conventions](https://github.com/open-telemetry/semantic-conventions-genai), in Prometheus' spelling. The conventions are
in development; when names change there, they change here. These metrics count finished answers, each choice of a
request separately. The provider is `semanticd`, the operation `chat` or `text_completion`."""

TAIL = """## Useful queries

| query | PromQL |
|---|---|
| share of prompt tokens that were not computed | `1 - rate(semanticd_tokens_total{kind="prompt_computed"}[5m]) / ignoring(kind) sum without(kind) (rate(semanticd_tokens_total{kind=~"prompt_.*"}[5m]))` |
| tokens per second | `rate(semanticd_tokens_total{kind="output"}[1m])` |
| time to first token, 95th percentile | `histogram_quantile(0.95, sum by (le) (rate(semanticd_ttft_seconds_bucket[5m])))` |
| requests that found nothing cached | `rate(semanticd_cache_requests_total{tier="cold"}[5m])` |
| most frequent causes of misses | `topk(3, increase(semanticd_cache_misses_total[1h]))` |

## Traces

If the extra `otel` is installed and an endpoint is set, the daemon sends one OpenTelemetry trace per generation to a
collector over OTLP/HTTP:

```sh
pip install 'semanticd[otel]'
SEMANTIC_OTLP_ENDPOINT=http://127.0.0.1:4318/v1/traces semanticd start
```

| span | from | to | attributes, in addition to `semanticd.request_id` |
|---|---|---|---|
| `request` | the request's first byte | the answer's last byte | `http.request.method`, `http.route`, `http.response.status_code` |
| `queue` | submission | processing starts | `semanticd.agent`, `semanticd.model` |
| `restore` | the first block file is requested | the last block is in RAM | `semanticd.tokens.restored_warm` |
| `prefill` | the sequence starts | the prompt is in the cache | `semanticd.tokens.computed`, `semanticd.tokens.reused_hot` |
| `decode` | the sequence joins the batch | its last token | `semanticd.tokens.output`, `semanticd.finish_reason` |
| `persist` | the turn's blocks are queued for writing | they are durable on disk | `semanticd.tokens.stored` |

`request` also has the attributes of OpenTelemetry's GenAI conventions, for collectors and viewers that support them:
`gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.request.model`, `gen_ai.response.model`, `gen_ai.response.id`,
`gen_ai.conversation.id` (the agent), `gen_ai.response.finish_reasons`, `gen_ai.response.time_to_first_chunk`,
`gen_ai.usage.input_tokens`, `gen_ai.usage.cache_read.input_tokens` (hot and warm), `gen_ai.usage.cache_creation.input_tokens`,
`gen_ai.usage.output_tokens`, `gen_ai.usage.reasoning.output_tokens`. The text of prompts and answers is not sent.

`queue` to `persist` are children of `request`. A phase that did not happen has no span: no `restore` without a warm
hit, no `decode` for a request that was cancelled earlier. With `n > 1`, each choice has its own spans. Every route
accepts a W3C `traceparent` header and continues the caller's trace; without the header, it starts a new trace. Log
lines of the request contain `trace_id`.

The SDK's own environment variables apply as well: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_TRACES_SAMPLER` (default: the caller's decision, otherwise all traces). Spans are sent in the background; if the
collector is unreachable, spans are lost but no request is affected. When tracing is off (the default), OpenTelemetry is
not imported.
"""


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for title, group in (*GROUPS.items(), ("Process", PROCESS)):
        lines += [f"### {title}", "", *_table(group), ""]
    lines += ["### OpenTelemetry's names", "", GEN_AI_NOTE, "", *_table(GEN_AI, prefix=""), ""]
    return "\n".join([*lines, TAIL])


def _table(group: Mapping[str, MetricSpec], *, prefix: str = PREFIX) -> list[str]:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name, spec in group.items():
        rows.append(f"| `{prefix}{name}` | {spec.kind} | {_labels(spec)} | {spec.help} |")
    return rows


def _labels(spec: MetricSpec) -> str:
    labels = ", ".join(f"`{label}`" for label in spec.labels)
    return f"{labels}: {', '.join(spec.values)}" if spec.values else labels


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")

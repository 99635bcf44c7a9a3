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

`GET /metrics` answers in Prometheus' text form. Where API keys are set, it needs one like every other route.
Counters start at 0 with the daemon. Gauges are read when the page is asked for.

`contrib/prometheus/` has a scrape configuration and alert rules, `contrib/grafana/semanticd.json` a dashboard.
To try them:

```sh
curl -s http://127.0.0.1:8000/metrics | grep semanticd_tokens_total
prometheus --config.file=contrib/prometheus/scrape.yml
```

The Python runtime's own `python_…` metrics are on the page too. On Linux and macOS alike the process's numbers come
from the operating system.

This page is made from the code by `python contrib/dev/generators/metrics_docs.py`.
"""

GEN_AI_NOTE = """Second names of numbers above, for dashboards that know the
[GenAI conventions](https://github.com/open-telemetry/semantic-conventions-genai) (in development: names change there, and
then here), in Prometheus' spelling. They count answers that ended, each choice of a request for itself; the provider is
`semanticd`, the operation `chat` or `text_completion`."""

TAIL = """## Useful questions

| question | PromQL |
|---|---|
| share of prompt tokens that were not computed | `1 - rate(semanticd_tokens_total{kind="prompt_computed"}[5m]) / ignoring(kind) sum without(kind) (rate(semanticd_tokens_total{kind=~"prompt_.*"}[5m]))` |
| tokens per second | `rate(semanticd_tokens_total{kind="output"}[1m])` |
| time to first token, 95th percentile | `histogram_quantile(0.95, sum by (le) (rate(semanticd_ttft_seconds_bucket[5m])))` |
| requests that found nothing cached | `rate(semanticd_cache_requests_total{tier="cold"}[5m])` |
| why prompts were not found | `topk(3, increase(semanticd_cache_misses_total[1h]))` |

## Traces

With the extra `otel` installed and an endpoint set, the daemon sends one OpenTelemetry trace per generation to a
collector over OTLP/HTTP:

```sh
pip install 'semanticd[otel]'
SEMANTIC_OTLP_ENDPOINT=http://127.0.0.1:4318/v1/traces semanticd start
```

| span | from | to | attributes besides `semanticd.request_id` |
|---|---|---|---|
| `request` | the request's first byte | the answer's last byte | `http.request.method`, `http.route`, `http.response.status_code` |
| `queue` | submission | its work begins | `semanticd.agent`, `semanticd.model` |
| `restore` | the first block file is asked for | the last block is back in RAM | `semanticd.tokens.restored_warm` |
| `prefill` | the sequence starts | the prompt is in the cache | `semanticd.tokens.computed`, `semanticd.tokens.reused_hot` |
| `decode` | the sequence joins the batch | its last token | `semanticd.tokens.output`, `semanticd.finish_reason` |
| `persist` | the turn's blocks are handed over | they are durable on disk | `semanticd.tokens.stored` |

`request` says the same in the words of OpenTelemetry's GenAI conventions, for collectors and viewers that know them:
`gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.request.model`, `gen_ai.response.model`, `gen_ai.response.id`,
`gen_ai.conversation.id` (the agent), `gen_ai.response.finish_reasons`, `gen_ai.response.time_to_first_chunk`,
`gen_ai.usage.input_tokens`, `gen_ai.usage.cache_read.input_tokens` (hot and warm), `gen_ai.usage.cache_creation.input_tokens`,
`gen_ai.usage.output_tokens`, `gen_ai.usage.reasoning.output_tokens`. No text of prompts and answers is sent.

`queue` to `persist` are children of `request`. A span that did not happen is not there: no `restore` without a warm
hit, no `decode` for a request that was cancelled before. A choice of `n > 1` has its own set. A W3C `traceparent`
header is accepted on every route, so the trace continues the caller's; without one a trace begins here. Log lines of
the request carry `trace_id`.

The SDK's own environment variables are read as well: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_TRACES_SAMPLER` (default: what the caller decided, else all). Spans are sent in the background; a collector that
is away costs spans, never a request. Off (the default), nothing of OpenTelemetry is imported.
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

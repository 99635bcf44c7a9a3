"""Writes contrib/grafana/semanticd.json: `python contrib/dev/generators/grafana_dashboard.py` (a test compares).

A panel is one line below: its title, unit and description, then what it draws as (PromQL, legend).
"""
# ruff: noqa: E501 (a panel is a line)

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "grafana" / "semanticd.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

Query = tuple[str, str]
"""PromQL and legend."""


def now(name: str, labels: str = "") -> str:
    """Return a metric's present value on the chosen instances."""
    return f'semanticd_{name}{{instance=~"$instance"{"," + labels if labels else ""}}}'


def per_second(name: str, labels: str = "", *, by: str = "") -> str:
    """Return a counter's rate, summed (by a label)."""
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate({now(name, labels)}[$__rate_interval]))"


def increase(name: str, *, by: str = "") -> str:
    """Return a counter's increase, summed (by a label)."""
    group = f" by ({by})" if by else ""
    return f"sum{group} (increase({now(name)}[$__rate_interval]))"


def quantile(share: float, name: str, *, by: str = "") -> str:
    """Return a histogram's quantile (by a label)."""
    group = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({group}) (rate({now(name + '_bucket')}[$__rate_interval])))"


@dataclass(frozen=True)
class Panel:
    """One panel; `stat` shows the last number instead of a curve."""

    title: str
    unit: str
    description: str
    queries: Sequence[Query]
    stat: bool = False


def _trouble() -> list[Query]:
    names = {
        "warm_read_errors_total": "read errors",
        "warm_write_errors_total": "write errors",
        "warm_missing_files_total": "missing files",
        "warm_quarantined_total": "quarantined",
        "warm_index_errors_total": "index errors",
        "warm_queue_full_total": "queue full",
        "warm_pruned_total": "pruned",
        "agent_save_errors_total": "agents not saved",
        "agent_load_errors_total": "agents not read",
    }
    found = [(increase(name), legend) for name, legend in names.items()]
    return [*found, (increase("warm_refused_total", by="reason"), "refused: {{reason}}")]


COMPUTED, PROMPT = 'kind="prompt_computed"', 'kind=~"prompt_.*"'
SAVED = f"1 - {per_second('tokens_total', COMPUTED)} / {per_second('tokens_total', PROMPT)}"
RUNNING, WAITING = 'state=~"prefilling|decoding"', 'state="waiting"'

ROWS: dict[str, Sequence[Sequence[Panel]]] = {
    "Now": [
        [
            Panel("Running", "short", "In prefill or decode.", [(f"sum({now('sequences', RUNNING)})", "")], stat=True),
            Panel("Waiting", "short", "Not started yet.", [(f"sum({now('sequences', WAITING)})", "")], stat=True),
            Panel("Output tokens/s", "short", "Generated.", [(per_second("tokens_total", 'kind="output"'), "")], stat=True),
            Panel("Prompt tokens saved", "percentunit", "Share that was reused and not computed.", [(SAVED, "")], stat=True),
            Panel("Hot cache", "bytes", "Blocks in RAM.", [(now("block_pool_bytes", 'state="hot"'), "")], stat=True),
            Panel("Warm cache", "bytes", "Block files.", [(now("warm_bytes"), "")], stat=True),
        ],
    ],
    "Requests and latency": [
        [
            Panel("Answers by finish reason", "reqps", "Finished answers.", [(per_second("requests_finished_total", by="reason"), "{{reason}}")]),
            Panel("HTTP requests by status", "reqps", "All routes.", [(per_second("http_requests_total", by="status"), "{{status}}"), (per_second("rate_limited_total"), "rate limited"), (per_second("http_clients_left_total"), "client left"), (per_second("http_connections_dropped_total", by="reason"), "dropped: {{reason}}")]),
            Panel("HTTP time by route, p95", "s", "Until the last byte, including streams.", [(quantile(0.95, "http_request_seconds", by="route"), "{{route}}")]),
        ],
        [
            Panel("Time to first token by tier", "s", "From submission.", [(quantile(0.5, "ttft_seconds", by="tier"), "p50 {{tier}}"), (quantile(0.95, "ttft_seconds", by="tier"), "p95 {{tier}}")]),
            Panel("Between two tokens", "s", "Inter-token latency of each answer.", [(quantile(0.5, "itl_seconds"), "p50"), (quantile(0.95, "itl_seconds"), "p95"), (quantile(0.99, "itl_seconds"), "p99")]),
            Panel("Waiting and restoring, p95", "s", "Before prefill begins.", [(quantile(0.95, "queue_seconds"), "queue"), (quantile(0.95, "restore_seconds"), "restore")]),
        ],
    ],
    "Engine": [
        [
            Panel("Sequences by state", "short", "Now in the engine.", [(f"sum by (state) ({now('sequences')})", "{{state}}")]),
            Panel("Tokens by kind", "short", "Per second.", [(per_second("tokens_total", by="kind"), "{{kind}}"), (per_second("prefilled_tokens_total"), "computed in prefill"), (per_second("unanswered_tokens_total", by="reason"), "for no answer: {{reason}}")]),
            Panel("Batch size", "short", "Sequences in a decode step.", [(f"{per_second('batch_size_sum')} / {per_second('batch_size_count')}", "mean"), (quantile(0.95, "batch_size"), "p95")]),
        ],
        [
            Panel("Step times, p95", "s", "One step of the engine's thread.", [(quantile(0.95, "prefill_chunk_seconds"), "prefill chunk"), (quantile(0.95, "decode_step_seconds"), "decode step")]),
            Panel("Drafts", "short", "Guessed tokens per second; tokens of a sequence from one decode step.", [(per_second("draft_tokens_total", by="outcome"), "{{outcome}}"), (per_second("drafted_tokens_total", by="source"), "guessed: {{source}}"), (per_second("accepted_tokens_total", by="source"), "accepted: {{source}}"), (per_second("verify_steps_total"), "steps that verify"), (f"""1 + {per_second('draft_tokens_total', 'outcome="accepted"')} / {per_second('batch_size_sum')}""", "tokens per step")]),
            Panel("Preemptions, tool calls not parsed", "short", "Per second.", [(per_second("preemptions_total"), "preemptions"), (per_second("tool_parse_failures_total"), "tool calls not parsed"), (per_second("restore_timeouts_total"), "restores timed out"), (per_second("memory_short_total", by="cause"), "memory short: {{cause}}"), (per_second("trace_dropped_requests_total", by="reason"), "not recorded: {{reason}}")]),
            Panel("Models", "bytes", "Weights of the loaded models; swaps.", [(now("model_weights_bytes"), "{{model}}"), (increase("model_swaps_total", by="outcome"), "swap {{outcome}}")]),
        ],
    ],
    "Cache": [
        [
            Panel("Requests by tier", "reqps", "The coldest tier a request used.", [(per_second("cache_requests_total", by="tier"), "{{tier}}")]),
            Panel("Misses by cause", "reqps", "Why a prompt differed from the cached prefix.", [(per_second("cache_misses_total", by="cause"), "{{cause}}")]),
            Panel("Block pool", "bytes", "RAM for KV caches; pinned and dirty bytes are hot as well.", [(f"sum by (state) ({now('block_pool_bytes')})", "{{state}}"), (now("block_pool_budget_bytes"), "budget"), (now("block_pool_planned_bytes"), "planned budget")]),
        ],
        [
            Panel("Evictions by reason", "short", "Blocks per second that left RAM.", [(per_second("cache_evictions_total", by="reason"), "{{reason}}"), (per_second("cache_lost_blocks_total"), "lost"), (per_second("cache_skipped_blocks_total"), "not kept"), (per_second("recomputed_tokens_total"), "tokens computed again")]),
            Panel("Prefill saved", "s", "Seconds of prefill saved per second.", [(per_second("saved_prefill_seconds_total"), "saved")]),
            Panel("Agents' texts in RAM", "bytes", "Texts and token ids, outside the cache budget.", [(now("agent_text_bytes"), "texts")]),
            Panel("Blocks", "short", "Number of blocks.", [(now("block_pool_blocks"), "hot"), (now("warm_blocks"), "warm")]),
            Panel("Warm tier", "bytes", "Files on disk.", [(now("warm_bytes"), "stored"), (now("warm_cap_bytes"), "cap"), (now("warm_written_today_bytes"), "written today"), (now("warm_write_budget_bytes"), "write budget"), (now("warm_disk_free_bytes"), "free on the volume"), (now("warm_reserve_bytes"), "left free")]),
        ],
        [
            Panel("Disk traffic", "Bps", "Block files.", [(per_second("warm_read_bytes_total"), "read"), (per_second("warm_written_bytes_total"), "written")]),
            Panel("Disk times, p95", "s", "Including checks and fsync.", [(quantile(0.95, "warm_read_seconds"), "read a block"), (quantile(0.95, "warm_write_seconds"), "write a group")]),
            Panel("Disk trouble", "short", "Zero on a healthy machine, except pruned and refused blocks at the size limit.", _trouble()),
        ],
        [
            Panel("Blocks of peers", "short", "Prompts looked up at peers, blocks found there, and blocks received.", [(per_second("peer_lookups_total", by="peer"), "asked: {{peer}}"), (per_second("peer_found_blocks_total", by="peer"), "found: {{peer}}"), (per_second("peer_read_blocks_total", by="peer"), "read: {{peer}}")]),
            Panel("Traffic from peers", "Bps", "Block files.", [(per_second("peer_read_bytes_total", by="peer"), "{{peer}}")]),
            Panel("Failures of peers", "short", "Each costs a recompute; the peer is not asked for a while.", [(increase("peer_failures_total", by="peer, reason"), "{{peer}}: {{reason}}")]),
        ],
    ],
    "Machines of one model": [
        [
            Panel("Ranks", "short", "1 while a rank takes part in computation; number of lost connections.", [(now("rank_ready"), "rank {{rank}}"), (increase("ranks_lost_total"), "lost")]),
            Panel("Memory of ranks", "bytes", "Size of the tensors on each machine.", [(now("rank_memory_bytes"), "rank {{rank}}")]),
            Panel("Step of ranks", "s", "The last step, including its wait for other ranks.", [(now("rank_step_seconds"), "rank {{rank}}")]),
            Panel("Traffic of ranks", "Bps", "Between the daemon and each machine, without traffic between machines.", [(per_second("rank_bytes_total", by="rank, direction"), "{{direction}}: rank {{rank}}")]),
        ],
    ],
    "Process": [
        [
            Panel("Memory", "bytes", "In RAM.", [(now("process_resident_memory_bytes"), "resident")]),
            Panel("CPU", "short", "Cores in use.", [(per_second("process_cpu_seconds_total"), "cores")]),
            Panel("Descriptors, threads, clients", "short", "", [(now("process_open_fds"), "descriptors"), (now("process_threads"), "threads"), (now("control_clients"), "control clients")]),
        ],
    ],
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard as Grafana imports it."""
    return {
        "title": "semanticd",
        "uid": "semanticd",
        "tags": ["semanticd", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "instance",
            "type": "query",
            "label": "Instance",
            "datasource": SOURCE,
            "query": {"query": "label_values(semanticd_build_info, instance)", "refId": "instance"},
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
            "refresh": 2,
        },
    ]


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for title, lines in ROWS.items():
        found.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            }
        )
        y += 1
        for line in lines:
            height, width = (4 if line[0].stat else 8), WIDTH // len(line)
            for column, panel in enumerate(line):
                place = {"h": height, "w": width, "x": column * width, "y": y}
                found.append(_panel(panel, place))
            y += height
    return [{"id": number, **panel} for number, panel in enumerate(found, start=1)]


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    stat = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    curve = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    style = {} if panel.stat else {"fillOpacity": 10, "showPoints": "never"}
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": style}, "overrides": []},
        "options": stat if panel.stat else curve,
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend, "datasource": SOURCE}
            for index, (expr, legend) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    FILE.write_text(text(), encoding="utf-8")

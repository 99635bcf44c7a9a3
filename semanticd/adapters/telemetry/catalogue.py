"""Every metric, once: the only place where one is named and described. docs/metrics.md is made from this.

Rule: a name here carries no prefix; on the page it is `semanticd_…`, ends in its unit, and a counter in `_total`. Where
a label has a known set of values they exist from the start, at 0, so that a rate sees the first event. Second names,
for dashboards that know OpenTelemetry's, are in `GEN_AI` as they are on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from semanticd.domain.generation import CacheTier, MissCause

PREFIX: Final = "semanticd_"

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_STEP_SECONDS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

TIERS: Final = get_args(CacheTier)
POOL_STATES: Final = ("hot", "pinned", "dirty", "running", "in_flight")
SEQUENCE_STATES: Final = ("waiting", "prefilling", "decoding")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its kind, its meaning, its labels, and buckets for a histogram.

    `values` are the known values of its only label.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    values: tuple[str, ...] = ()


_REQUESTS: Mapping[str, MetricSpec] = {
    "requests_finished_total": MetricSpec(
        "counter",
        "Finished answers, by finish reason.",
        ("reason",),
        values=("stop", "length", "stop_sequence", "cancelled", "error"),
    ),
    "http_requests_total": MetricSpec(
        "counter", "HTTP requests, by route and status.", ("route", "method", "status")
    ),
    "http_request_seconds": MetricSpec("histogram", "Time to answer an HTTP request.", ("route",), _SECONDS),
    "http_clients_left_total": MetricSpec(
        "counter", "Clients that disconnected before their answer was complete."
    ),
    "http_connections_dropped_total": MetricSpec(
        "counter",
        "Connections closed because the client was too slow or sent an invalid request, or to make room for others.",
        ("reason",),
        values=("head", "write", "room", "full", "invalid"),
    ),
    "rate_limited_total": MetricSpec(
        "counter", "Requests refused by a rate limit, by scope.", ("scope",), values=("key", "agent")
    ),
    "tokens_total": MetricSpec(
        "counter",
        "Tokens by kind: output, or prompt tokens reused from RAM, restored from disk, or computed.",
        ("kind",),
        values=("output", "prompt_hot", "prompt_warm", "prompt_computed"),
    ),
    "tool_parse_failures_total": MetricSpec("counter", "Tool calls by models that could not be parsed."),
    "trace_dropped_requests_total": MetricSpec(
        "counter",
        "Requests missing from the trace: the write queue was full, the request was too large, or a write failed.",
        ("reason",),
        values=("queue", "size", "error"),
    ),
}

_LATENCY: Mapping[str, MetricSpec] = {
    "ttft_seconds": MetricSpec(
        "histogram",
        "Time from a request's submission to its first token, by cache tier.",
        ("tier",),
        _SECONDS,
        values=TIERS,
    ),
    "itl_seconds": MetricSpec(
        "histogram", "Time between two tokens of one answer (inter-token latency).", (), _STEP_SECONDS
    ),
    "queue_seconds": MetricSpec(
        "histogram", "Time a request waited before processing started.", (), _SECONDS
    ),
    "restore_seconds": MetricSpec(
        "histogram", "Time a request waited for its blocks to be read from disk, if it did.", (), _SECONDS
    ),
}

_ENGINE: Mapping[str, MetricSpec] = {
    "prefill_chunk_seconds": MetricSpec("histogram", "Time of one prefill chunk.", (), _STEP_SECONDS),
    "decode_step_seconds": MetricSpec("histogram", "Time of one decode step of a batch.", (), _STEP_SECONDS),
    "batch_size": MetricSpec("histogram", "Sequences in a decode step.", (), _COUNTS),
    "draft_tokens_total": MetricSpec(
        "counter",
        "Tokens guessed from earlier text or from a schema; each accepted one saved a decode step.",
        ("outcome",),
        values=("accepted", "rejected"),
    ),
    "drafted_tokens_total": MetricSpec(
        "counter",
        "Guessed tokens, by source: forced by a schema, the sequence's own text, its agent's earlier answers.",
        ("source",),
        values=("forced", "own", "earlier"),
    ),
    "accepted_tokens_total": MetricSpec(
        "counter",
        "Guessed tokens that were accepted, by source.",
        ("source",),
        values=("forced", "own", "earlier"),
    ),
    "verify_steps_total": MetricSpec("counter", "Decode steps that verified guessed tokens."),
    "sequences": MetricSpec(
        "gauge",
        "Sequences in the engine and in its queue, by state.",
        ("state",),
        values=SEQUENCE_STATES,
    ),
    "preemptions_total": MetricSpec("counter", "Sequences returned to waiting because memory was short."),
    "prefilled_tokens_total": MetricSpec(
        "counter", "Prompt tokens computed in prefill chunks, including those of unfinished requests."
    ),
    "unanswered_tokens_total": MetricSpec(
        "counter",
        "Tokens computed for requests that were cancelled or failed; their blocks may be reused.",
        ("reason",),
        values=("cancelled", "error"),
    ),
    "restore_timeouts_total": MetricSpec(
        "counter", "Sequences that stopped waiting for their blocks because the disk did not answer in time."
    ),
}

_HOT: Mapping[str, MetricSpec] = {
    "block_pool_bytes": MetricSpec(
        "gauge",
        "Bytes of the cache budget, by state; pinned and dirty bytes are hot as well.",
        ("state",),
        values=POOL_STATES,
    ),
    "block_pool_blocks": MetricSpec("gauge", "Blocks in RAM."),
    "agent_text_bytes": MetricSpec(
        "gauge", "RAM for agents' conversations (texts and token ids), outside the cache budget."
    ),
    "block_pool_budget_bytes": MetricSpec("gauge", "The cache budget."),
    "block_pool_planned_bytes": MetricSpec(
        "gauge", "The cache budget while memory is not short; above the budget while that is lowered."
    ),
    "memory_short_total": MetricSpec(
        "counter",
        "Times that memory was short: the system reported pressure, or a computation ran out of memory.",
        ("cause",),
        values=("pressure", "out_of_memory"),
    ),
    "cache_skipped_blocks_total": MetricSpec(
        "counter", "Computed blocks that were not kept because unwritten blocks filled the budget."
    ),
    "cache_requests_total": MetricSpec(
        "counter",
        "Requests by the coldest cache tier they used; cold: nothing of the prompt was cached.",
        ("tier",),
        values=TIERS,
    ),
    "cache_misses_total": MetricSpec(
        "counter",
        "Prompts that differed from the cached prefix, by likely cause.",
        ("cause",),
        values=get_args(MissCause),
    ),
    "cache_evictions_total": MetricSpec(
        "counter",
        "Blocks that left RAM, by reason.",
        ("reason",),
        values=("budget", "max_agents", "command", "deleted", "cleared", "model_unloaded"),
    ),
    "saved_prefill_seconds_total": MetricSpec(
        "counter",
        "Prefill time saved: reused and restored tokens divided by the measured prefill speed.",
    ),
    "recomputed_tokens_total": MetricSpec(
        "counter",
        "Prompt tokens computed again because their blocks were evicted or lost.",
    ),
    "cache_lost_blocks_total": MetricSpec("counter", "Blocks dropped from RAM without a copy on disk."),
}

_WARM: Mapping[str, MetricSpec] = {
    "warm_bytes": MetricSpec("gauge", "Bytes of block files."),
    "warm_blocks": MetricSpec("gauge", "Blocks on disk."),
    "warm_cap_bytes": MetricSpec("gauge", "Maximum size of the warm tier; +Inf: no limit."),
    "warm_disk_free_bytes": MetricSpec("gauge", "Free bytes on the volume of the warm tier."),
    "warm_reserve_bytes": MetricSpec(
        "gauge", "Bytes to keep free on that volume; no block is written below this."
    ),
    "warm_read_bytes_total": MetricSpec("counter", "Bytes read from block files."),
    "warm_read_seconds": MetricSpec("histogram", "Time to read and verify a block file.", (), _STEP_SECONDS),
    "warm_read_errors_total": MetricSpec("counter", "Block files that could not be read."),
    "warm_missing_files_total": MetricSpec("counter", "Blocks in the index whose file was missing."),
    "warm_quarantined_total": MetricSpec("counter", "Damaged block files moved to quarantine."),
    "warm_written_bytes_total": MetricSpec("counter", "Bytes written to block files."),
    "warm_write_seconds": MetricSpec("histogram", "Time to make a group of blocks durable.", (), _SECONDS),
    "warm_write_errors_total": MetricSpec("counter", "Groups of blocks that could not be written."),
    "warm_write_budget_bytes": MetricSpec("gauge", "Bytes that may be written per day; +Inf: no limit."),
    "warm_written_today_bytes": MetricSpec(
        "gauge", "Bytes written today that count towards the write budget."
    ),
    "warm_refused_total": MetricSpec("counter", "Blocks deliberately not written, by reason.", ("reason",)),
    "warm_queue_full_total": MetricSpec("counter", "Blocks refused because the write queue was full."),
    "warm_pruned_total": MetricSpec("counter", "Blocks removed to stay below the size limit."),
    "warm_index_errors_total": MetricSpec("counter", "Failed queries of the index."),
    "agent_save_errors_total": MetricSpec("counter", "Agent records that could not be written."),
    "agent_load_errors_total": MetricSpec("counter", "Agent records that could not be read."),
}

_PEERS: Mapping[str, MetricSpec] = {
    "peer_lookups_total": MetricSpec("counter", "Prompts looked up at a peer.", ("peer",)),
    "peer_found_blocks_total": MetricSpec("counter", "Blocks that a peer reported to have.", ("peer",)),
    "peer_read_blocks_total": MetricSpec("counter", "Blocks received from a peer.", ("peer",)),
    "peer_read_bytes_total": MetricSpec("counter", "Bytes of block files received from a peer.", ("peer",)),
    "peer_failures_total": MetricSpec(
        "counter",
        "Failed lookups and block reads, by reason: unreachable, timed_out, refused, busy, gone, malformed, "
        "too_large, cut_off, damaged.",
        ("peer", "reason"),
    ),
}

_RANKS: Mapping[str, MetricSpec] = {
    "rank_ready": MetricSpec("gauge", "1 while the rank takes part in computation, else 0.", ("rank",)),
    "rank_memory_bytes": MetricSpec("gauge", "Bytes of a rank's tensors.", ("rank",)),
    "rank_step_seconds": MetricSpec(
        "gauge",
        "Time of a rank's last step, including its wait for other ranks; 0 before the first step of a model.",
        ("rank",),
    ),
    "rank_bytes_total": MetricSpec(
        "counter",
        "Bytes between the daemon and a rank (steps and restored blocks), without traffic between ranks.",
        ("rank", "direction"),
    ),
    "ranks_lost_total": MetricSpec("counter", "Times that the machines of a model lost their connection."),
}

_DAEMON: Mapping[str, MetricSpec] = {
    "build_info": MetricSpec("gauge", "Always 1; the label has the daemon's version.", ("version",)),
    "model_weights_bytes": MetricSpec("gauge", "Bytes of a loaded model's weights.", ("model",)),
    "model_swaps_total": MetricSpec(
        "counter", "Model swaps, by outcome.", ("outcome",), values=("done", "failed")
    ),
    "control_clients": MetricSpec("gauge", "Connected control clients."),
}

GROUPS: Final[Mapping[str, Mapping[str, MetricSpec]]] = {
    "Requests": _REQUESTS,
    "Latency": _LATENCY,
    "Engine": _ENGINE,
    "Hot tier": _HOT,
    "Warm tier and agents on disk": _WARM,
    "Peers": _PEERS,
    "Ranks": _RANKS,
    "Models and control": _DAEMON,
}
"""The catalogue as the documentation shows it."""

CATALOGUE: Final[Mapping[str, MetricSpec]] = {
    name: spec for group in GROUPS.values() for name, spec in group.items()
}

_GEN_AI_LABELS: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")

GEN_AI: Final[Mapping[str, MetricSpec]] = {
    "gen_ai_server_request_duration_seconds": MetricSpec(
        "histogram",
        "Time from a generation's submission to its last token.",
        _GEN_AI_LABELS,
        (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    ),
    "gen_ai_server_time_to_first_token_seconds": MetricSpec(
        "histogram",
        "Time from a generation's submission to its first token.",
        _GEN_AI_LABELS,
        (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    ),
    "gen_ai_server_time_per_output_token_seconds": MetricSpec(
        "histogram",
        "Time per token after the first one.",
        _GEN_AI_LABELS,
        (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    ),
    "gen_ai_client_inference_usage_input_tokens_total": MetricSpec(
        "counter", "Prompt tokens, including cached ones.", _GEN_AI_LABELS
    ),
    "gen_ai_client_inference_usage_cache_read_input_tokens_total": MetricSpec(
        "counter", "Prompt tokens that came from the cache, in RAM or on disk.", _GEN_AI_LABELS
    ),
    "gen_ai_client_inference_usage_output_tokens_total": MetricSpec(
        "counter", "Generated tokens, including thinking.", _GEN_AI_LABELS
    ),
    "gen_ai_client_inference_usage_reasoning_output_tokens_total": MetricSpec(
        "counter", "Generated thinking tokens.", _GEN_AI_LABELS
    ),
}
"""Second names of ours, as OpenTelemetry's GenAI conventions call them, in Prometheus' spelling."""

PROCESS: Final[Mapping[str, MetricSpec]] = {
    "process_cpu_seconds_total": MetricSpec("counter", "CPU time of the process, user and system."),
    "process_resident_memory_bytes": MetricSpec("gauge", "Resident memory of the process."),
    "process_virtual_memory_bytes": MetricSpec("gauge", "Address space of the process."),
    "process_open_fds": MetricSpec("gauge", "Open file descriptors."),
    "process_threads": MetricSpec("gauge", "Threads of the process."),
    "process_start_time_seconds": MetricSpec(
        "gauge", "Start time of the process, in seconds since the epoch."
    ),
}
"""Read from the operating system at each scrape; the same on macOS and Linux."""

"""Limits for everything a client sizes: counts, bytes and seconds, all of them here and nowhere else.

docs/limits.md is made from this table; tests/docs/test_limits_page.py names the test that holds each row.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """One row per limit; the first word says of what, the last one in which unit (counts have none)."""

    connections: int = 1_024
    """Connections in total; at the limit, the one that has waited longest for its client is closed."""
    connections_per_peer: int = 768
    """Connections from one address; all programs on this machine share one address."""
    header_timeout_s: float = 10.0
    """Time from a request's first byte (or the start of the connection) to the end of its headers."""
    idle_timeout_s: float = 60.0
    """Idle time between two requests of a connection."""
    write_timeout_s: float = 30.0
    """A client that reads nothing of its response for this long is disconnected."""
    write_progress_bytes: int = 16 * KIB
    """Bytes a client must read in that time."""
    stream_bytes: int = 4 * MIB
    """Unsent events of one answer (estimated); beyond this the answer is cancelled."""

    path_bytes: int = 8 * KIB
    """A request's path, as sent."""
    header_bytes: int = 64 * KIB
    """All headers of a request."""
    body_bytes: int = 32 * MIB
    """A request's body, decompressed."""
    small_chunks: int = 4_096
    """Chunks of a chunked body of any size; with more chunks, their average size must reach the next limit."""
    chunk_bytes: int = 32
    """Minimum average size of those chunks."""
    body_timeout_s: float = 30.0
    """Time from the end of the headers to the end of the body; for an uploaded agent, between two parts of it."""
    import_bytes: int = 64 * GIB
    """An uploaded agent export, which is streamed to disk."""
    nesting: int = 64
    """Nesting depth of objects and arrays in a body, or in JSON within one of its strings."""
    json_values: int = 320_000
    """Values in a body, or in JSON within one of its strings: members and elements; empty lists count twice."""
    command_values: int = 10_000
    """Values in a command on the control socket: maps, lists, their keys and elements."""
    messages: int = 10_000
    """Messages, input items or prompts in one request."""
    stored_responses_per_agent: int = 200
    """Responses of one agent in memory for `previous_response_id`; anonymous clients count as one agent."""
    stored_responses_bytes: int = 64 * MIB
    """All responses in memory, including conversations (estimated); a larger response is not stored."""
    archived_responses_bytes: int = 512 * MIB
    """All responses on disk, including conversations; the oldest are deleted first."""
    archived_responses_days: float = 30.0
    """Days after which responses on disk are deleted."""
    metadata_characters: int = 16 * KIB
    """Metadata of a response or an agent, keys and values."""
    agent_bytes: int = 1 * MIB
    """An agent's system text, tools and metadata together, which are stored as long as the agent exists."""
    earlier_tokens: int = 16 * KIB
    """Tokens of an agent's earlier answers by one model, in memory for lookup decoding; the oldest are dropped."""
    earlier_bytes: int = 32 * MIB
    """Earlier answers of all agents (estimated); those of the agent that answered least recently are dropped first."""
    rate_limited_callers: int = 10_000
    """Keys or agents that a rate limiter tracks."""

    peer_reads: int = 4
    """Concurrent block reads and lookups by peers; others wait and get 503 after 4 s."""
    peer_tokens: int = 1_048_576
    """Tokens of a prompt in a peer's lookup."""
    peers: int = 16
    """Machines in `SEMANTIC_PEERS`."""

    ranks: int = 16
    """Machines that compute one model together (`SEMANTIC_DISTRIBUTED_HOSTS`)."""
    rank_handshakes: int = 16
    """Connections of ranks before their handshake is complete; others are closed."""

    embedding_inputs: int = 2_048
    """Texts in one embeddings request."""
    embedding_tokens: int = 300_000
    """Tokens in all texts of one embeddings request."""

    tools: int = 2_048
    """Tools offered in one request."""
    stop_strings: int = 64
    """Stop strings in one request."""
    stop_characters: int = 4 * KIB
    """Total length of a request's stop strings; each new token is compared with all of them."""
    logit_biases: int = 1_024
    """Token ids with a bias in one request."""
    prompt_characters_per_token: int = 16
    """Characters per token of the model's context; a longer prompt is refused without tokenizing it."""
    name_characters: int = 256
    """Length of a model's name."""

    form_bytes: int = 512 * KIB
    """A JSON schema, or all schemas and rules of a grammar together, as JSON text."""
    form_properties: int = 2_000
    """Properties of one object in a JSON schema."""
    form_counted_properties: int = 64
    """Properties of an object with `minProperties`: the grammar grows with the third power of their number."""
    form_steps: int = 200_000
    """Parts of a schema examined to estimate how many bytes complete an answer; a larger one gets no estimate."""
    form_compile_s: float = 2.0
    """Time to compile a schema; a slower one is refused as too complex."""
    form_compile_bytes: int = 2 * GIB
    """Address space of the process that compiles a schema on trial."""
    form_memory_bytes: int = 32 * MIB
    """Memory of a compiled schema with patterns or its own rules."""
    form_cache_bytes: int = 64 * MIB
    """Compiled schemas cached for later requests; those with patterns or rules are measured, others estimated."""


LIMITS = Limits()
"""The limits that hold unless a constructor is given others."""

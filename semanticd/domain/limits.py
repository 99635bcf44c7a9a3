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
    """Connections in all; beyond it the one that waited longest for its client is closed."""
    connections_per_peer: int = 768
    """Connections from one address; programs of the same machine share one."""
    header_timeout_s: float = 10.0
    """From a request's first byte (or the connection's beginning) to the end of its head."""
    idle_timeout_s: float = 60.0
    """Between two requests of a connection."""
    write_timeout_s: float = 30.0
    """A client that reads nothing of its answer for so long is dropped."""
    write_progress_bytes: int = 16 * KIB
    """What counts as reading something, in that time."""
    stream_bytes: int = 4 * MIB
    """Events of one answer that wait to be sent, by estimate; beyond it the answer is cancelled."""

    path_bytes: int = 8 * KIB
    """A request's path, as it was sent."""
    header_bytes: int = 64 * KIB
    """All headers of a request."""
    body_bytes: int = 32 * MIB
    """A request's body, unpacked."""
    small_chunks: int = 4_096
    """Chunks of a body that is sent in chunks; where there are more, they have the following size on average."""
    chunk_bytes: int = 32
    """Least size of those chunks."""
    body_timeout_s: float = 30.0
    """From a request's head to the end of its body; for an uploaded agent, between two parts of it."""
    import_bytes: int = 64 * GIB
    """An uploaded agent export, which is written to disk as it comes."""
    nesting: int = 64
    """How deep objects and arrays of a body, or of JSON inside of a text in it, are nested."""
    json_values: int = 320_000
    """Values in a body, or in JSON inside of a text in it: members and elements, empty lists count twice."""
    command_values: int = 10_000
    """Values in a command on the control socket: maps, lists, their keys and elements."""
    messages: int = 10_000
    """Messages, input items or prompts in one request."""
    stored_responses_per_agent: int = 200
    """Responses kept in memory for `previous_response_id`, of one agent; anonymous callers count as one."""
    stored_responses_bytes: int = 64 * MIB
    """Responses kept in memory in all, with their conversations, by estimate; a larger one is not kept at all."""
    archived_responses_bytes: int = 512 * MIB
    """Responses kept on disk in all, with their conversations; the oldest go first."""
    archived_responses_days: float = 30.0
    """For how long they are kept there."""
    metadata_characters: int = 16 * KIB
    """Metadata of a response or an agent, names and values."""
    agent_bytes: int = 1 * MIB
    """What creates an agent: its system text, tools and metadata, which are kept for its life."""
    earlier_tokens: int = 16 * KIB
    """Tokens of an agent's earlier answers by one model, kept in memory for lookup decoding; the oldest go first."""
    earlier_bytes: int = 32 * MIB
    """Earlier answers of all agents, by estimate; those of the agent that answered least recently go first."""
    rate_limited_callers: int = 10_000
    """Keys or agents that a rate limiter remembers."""

    peer_reads: int = 4
    """Blocks that are sent to peers at the same time, and questions; others wait, and get 503 after 4 s."""
    peer_tokens: int = 1_048_576
    """Tokens of a prompt that a peer asks about."""
    peers: int = 16
    """Machines in `SEMANTIC_PEERS`."""

    ranks: int = 16
    """Machines that one model is spread over (`SEMANTIC_DISTRIBUTED_HOSTS`)."""
    rank_handshakes: int = 16
    """Connections of ranks that have not proved yet that they know the key; others are closed."""

    embedding_inputs: int = 2_048
    """Texts in one embeddings request."""
    embedding_tokens: int = 300_000
    """Tokens of all texts of one embeddings request."""

    tools: int = 2_048
    """Tools offered in one request."""
    stop_strings: int = 64
    """Stop strings of one request."""
    stop_characters: int = 4 * KIB
    """All stop strings of a request together: each new token is compared with all of them."""
    logit_biases: int = 1_024
    """Token ids with a bias in one request."""
    prompt_characters_per_token: int = 16
    """A prompt with more characters than this for each token of the model's context is refused unread."""
    name_characters: int = 256
    """A model's name."""

    form_bytes: int = 512 * KIB
    """A JSON schema, or all schemas and rules of a grammar together, as JSON text."""
    form_properties: int = 2_000
    """Properties of one object in a JSON schema."""
    form_counted_properties: int = 64
    """Properties of an object with `minProperties`: the grammar grows with the third power of their number."""
    form_steps: int = 200_000
    """Parts looked at to estimate how a form can be ended; beyond it the form is compiled without an estimate."""
    form_compile_s: float = 2.0
    """Time to compile a form; a slower one is refused as too complex."""
    form_compile_bytes: int = 2 * GIB
    """Address space of the process that tries a form."""
    form_memory_bytes: int = 32 * MIB
    """Memory that a compiled form with patterns or rules of its own takes."""
    form_cache_bytes: int = 64 * MIB
    """Compiled forms kept for later requests: those with patterns or rules as measured, others by estimate."""


LIMITS = Limits()
"""The limits that hold unless a constructor is given others."""

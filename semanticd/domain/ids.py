"""Names of things, as types of their own so that one cannot be passed for another."""

from __future__ import annotations

from typing import NewType

AgentId = NewType("AgentId", str)
"""An agent's durable name, chosen by the client or made by us."""

RequestId = NewType("RequestId", str)
"""Id of one client request; echoed as `x-request-id`."""

SequenceId = NewType("SequenceId", int)
"""A request's life inside the engine; a request with `n` choices has `n` sequences."""

ModelId = NewType("ModelId", str)
"""The name a model is served under (an alias or `org/name`)."""

ModelFingerprint = NewType("ModelFingerprint", str)
"""Lower-case hex SHA-256 over weights, config, tokenizer and chat template."""

BlockHash = NewType("BlockHash", bytes)
"""32 bytes: SHA-256 that names a block by its content and everything before it."""

"""The messages between the daemon and its ranks, as plain values for msgpack. No I/O.

Steps go to every rank in one order: `[number, name, arguments, handles that are dropped]`; the answer is
`[number, result, error, facts]`. A payload is a handle: the tensors stay in the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from semanticd.application.ports.inference import DecodedToken
from semanticd.application.ports.warm_store import BlockRecord, TensorBytes
from semanticd.domain import errors as domain
from semanticd.domain.block import Block
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import BlockHash, ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec

_ERRORS: Mapping[str, type[domain.SemanticError]] = {
    "cache": domain.CacheError,
    "invalid": domain.InvalidRequestError,
    "unsupported": domain.UnsupportedError,
    "load": domain.ModelLoadError,
    "broken_model": domain.BrokenModelError,
    "overloaded": domain.OverloadedError,
}
"""Errors that a rank may report, by their names; all others are defects, and end the ring."""
_SAMPLED = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "penalty_window", "seed", "logprobs", "top_logprobs",
)  # fmt: skip
_FORMED = (
    "kind",
    "schema",
    "grammar",
    "max_tokens",
    "thinking_budget",
    "begins_thinking",
    "may_relax",
    "param",
)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """The figures of a rank in each answer: bytes, and the seconds of the step."""

    running_bytes: int
    spare_bytes: Mapping[int, int]
    """By decode batch."""
    memory_bytes: int
    """Bytes of its tensors."""
    seconds: float


def error_out(error: Exception) -> list[Any]:
    """Return an error as it is sent."""
    if isinstance(error, domain.SemanticError):
        for word, kind in _ERRORS.items():
            if type(error) is kind:
                return [word, error.message, error.param]
        return ["defect", error.message, None]
    return ["defect", f"{type(error).__name__}: {error}", None]


def error_in(sent: Any) -> domain.SemanticError | None:
    """Return the error that was sent; None where it is a defect of the rank."""
    word, message, param = sent
    kind = _ERRORS.get(word)
    return None if kind is None else kind(str(message), param=param)


def sampling_out(sampling: SamplingParams) -> dict[str, Any]:
    """Return what decides about tokens."""
    values = {name: getattr(sampling, name) for name in _SAMPLED}
    return {**values, "logit_bias": [list(pair) for pair in sampling.logit_bias.items()]}


def sampling_in(sent: Mapping[str, Any]) -> SamplingParams:
    """Undo `sampling_out`."""
    bias = {int(token): float(value) for token, value in sent["logit_bias"]}
    return SamplingParams(**{name: sent[name] for name in _SAMPLED}, logit_bias=bias)


def constraint_out(constraint: OutputConstraint) -> dict[str, Any]:
    """Return a constraint without its compiled form."""
    found = {name: getattr(constraint, name) for name in _FORMED}
    return {**found, "not_enforced": list(constraint.not_enforced)}


def constraint_in(sent: Mapping[str, Any]) -> OutputConstraint:
    """Undo `constraint_out`."""
    return OutputConstraint(
        **{name: sent[name] for name in _FORMED}, not_enforced=tuple(sent["not_enforced"])
    )


def tensors_out(tensors: Sequence[TensorBytes]) -> list[Any]:
    """Return tensors with their bytes."""
    return [[one.name, one.dtype, list(one.shape), one.data] for one in tensors]


def tensors_in(sent: Sequence[Any]) -> tuple[TensorBytes, ...]:
    """Undo `tensors_out`."""
    return tuple(TensorBytes(name, dtype, tuple(shape), data) for name, dtype, shape, data in sent)


def tokens_out(tokens: Sequence[DecodedToken]) -> list[Any]:
    """Return decoded tokens."""
    return [
        [
            one.sequence_id,
            one.token_id,
            one.logprob,
            [list(pair) for pair in one.top],
            None if one.error is None else error_out(one.error),
        ]
        for one in tokens
    ]


def tokens_in(sent: Sequence[Any]) -> list[DecodedToken]:
    """Undo `tokens_out`."""
    return [
        DecodedToken(
            SequenceId(sequence_id),
            token_id,
            logprob,
            tuple((likely, value) for likely, value in top),
            None if error is None else error_in(error) or domain.EngineError(str(error[1])),
        )
        for sequence_id, token_id, logprob, top, error in sent
    ]


def spec_out(spec: ModelCacheSpec) -> dict[str, Any]:
    """Return a rank's cache layout."""
    return {
        "fingerprint": spec.fingerprint,
        "layers": [asdict(layer) for layer in spec.layers],
        "block_tokens": spec.block_tokens,
        "precision": spec.precision,
        "running_bytes_per_token": spec.running_bytes_per_token,
        "compute_revision": spec.compute_revision,
        "chunks": asdict(spec.chunks),
    }


def spec_in(sent: Mapping[str, Any]) -> ModelCacheSpec:
    """Undo `spec_out`."""
    return ModelCacheSpec(
        **{
            **sent,
            "fingerprint": ModelFingerprint(sent["fingerprint"]),
            "layers": tuple(LayerSpec(**layer) for layer in sent["layers"]),
            "chunks": ChunkTraits(**sent["chunks"]),
        }
    )


def block_out(record: BlockRecord, handle: int) -> list[Any]:
    """Return a block whose tensors the ranks hold under a handle."""
    block = record.block
    return [
        handle,
        bytes(block.block_hash),
        bytes(block.parent),
        list(block.token_ids),
        block.kind,
        record.fingerprint,
        record.layout,
    ]


def block_in(sent: Sequence[Any], tensors: tuple[TensorBytes, ...]) -> BlockRecord:
    """Return a rank's own record of a block, which holds these tensors."""
    _, name, parent, token_ids, kind, fingerprint, layout = sent
    num_bytes = sum(memoryview(tensor.data).nbytes for tensor in tensors)
    block = Block(BlockHash(name), BlockHash(parent), tuple(token_ids), num_bytes, kind)
    return BlockRecord(block, ModelFingerprint(fingerprint), layout, tensors)

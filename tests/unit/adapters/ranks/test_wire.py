"""What is sent to ranks arrives as it was: nothing that decides about tokens, blocks or errors is left out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import pytest

from semanticd.adapters.ranks import wire
from semanticd.adapters.ranks.shards import named, unnamed
from semanticd.application.ports.inference import DecodedToken
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.errors import (
    BrokenModelError,
    CacheError,
    EngineError,
    ModelLoadError,
    UnsupportedError,
)
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec
from tests.fakes.blocks import make_record


def carried(value: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def test_sampling_arrives_but_for_what_the_daemon_does_itself() -> None:
    sampling = SamplingParams(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        penalty_window=7,
        logit_bias={5: -1.5, 6: 2.0},
        seed=3,
        stop=("end",),
        logprobs=True,
        top_logprobs=2,
        ignore_eos=True,
    )
    found = wire.sampling_in(carried(wire.sampling_out(sampling)))
    elsewhere = {"max_tokens", "stop", "ignore_eos", "given"}
    for field in fields(SamplingParams):
        if field.name not in elsewhere:
            assert getattr(found, field.name) == getattr(sampling, field.name), field.name


def test_a_constraint_arrives_without_its_compiled_form() -> None:
    constraint = OutputConstraint(
        "json_schema",
        schema={"type": "object", "properties": {"a": {"enum": [1, "x", None]}}},
        max_tokens=40,
        thinking_budget=8,
        begins_thinking=True,
        may_relax=True,
        param="tools",
        not_enforced=("uniqueItems",),
        compiled=object(),
    )
    found = wire.constraint_in(carried(wire.constraint_out(constraint)))
    assert found == constraint
    assert (found.param, found.not_enforced, found.compiled) == ("tools", ("uniqueItems",), None)


def test_a_spec_and_a_block_arrive() -> None:
    spec = ModelCacheSpec(
        fingerprint=ModelFingerprint("f" * 64),
        layers=(LayerSpec("attention", "2x16", 128, 0, 64), LayerSpec("sliding", "w48", 0, 512)),
        block_tokens=64,
        precision="q8",
        running_bytes_per_token=256,
        compute_revision="mlx0.32-cpu",
        chunks=ChunkTraits(min_tokens=4, score_bytes=16),
    )
    assert wire.spec_in(carried(wire.spec_out(spec))) == spec
    record = make_record((1, 2, 3))
    assert wire.block_in(carried(wire.block_out(record, 7)), record.tensors) == record


def test_tokens_arrive_with_their_scores_and_errors() -> None:
    tokens = [
        DecodedToken(SequenceId(1), 5, -0.5, ((5, -0.5), (9, -1.0))),
        DecodedToken(SequenceId(2), 6, error=UnsupportedError("no", param="tools")),
        DecodedToken(SequenceId(3), 7, error=ZeroDivisionError("a defect")),
    ]
    scored, refused, failed = wire.tokens_in(carried(wire.tokens_out(tokens)))
    assert scored == tokens[0]
    assert (refused.token_id, type(refused.error), refused.error.param) == (6, UnsupportedError, "tools")  # type: ignore[union-attr]
    assert type(failed.error) is EngineError


@pytest.mark.parametrize("kind", [CacheError, UnsupportedError, ModelLoadError, BrokenModelError])
def test_errors_that_ranks_may_tell_arrive_as_they_are(kind: type[Any]) -> None:
    found = wire.error_in(carried(wire.error_out(kind("why", param="p"))))
    assert (type(found), str(found), found.param if found else None) == (kind, "why", "p")


def test_any_other_error_is_a_defect_of_the_rank() -> None:
    assert wire.error_in(carried(wire.error_out(KeyError("x")))) is None
    assert wire.error_in(carried(wire.error_out(EngineError("x")))) is None


def test_a_shard_is_taken_by_its_own_rank_in_a_group_of_its_own_size_only() -> None:
    tensors = (TensorBytes("a.k", "F32", (1,), b"1234"), TensorBytes("a.v", "F32", (1,), b"5678"))
    shard = named(tensors, rank=1, world_size=3)
    assert unnamed(shard, rank=1, world_size=3) == tensors
    for rank, world_size in ((0, 3), (2, 3), (1, 2), (1, 33)):
        with pytest.raises(CacheError):
            unnamed(shard, rank=rank, world_size=world_size)

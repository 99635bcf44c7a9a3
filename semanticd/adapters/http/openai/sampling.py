"""The common fields of OpenAI's chat and plain completions, and their sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.openai.constraint import Formed
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.generation import Priority, SamplingParams
from semanticd.domain.limits import LIMITS

MAX_TOKENS = 2**31 - 1
INT64 = 2**63 - 1

TokenLimit = Annotated[int, Meta(ge=-1, le=MAX_TOKENS)]
"""-1: as many as there is room for, as llama.cpp's clients say it."""
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-INT64, le=INT64)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast", "batch"]
"""Urgency of a request: flex and batch are background work here, the others interactive."""
Retention = Literal["in-memory", "in_memory", "24h"]
Bias = Annotated[float, Meta(extra_json_schema={"minimum": -100, "maximum": 100})]
"""Its bounds are checked with its token, which the error names."""
NumChoices = Annotated[int, Meta(ge=1, le=128)]


class StreamOptions(Struct):
    """The parts of a stream in addition to the answer."""

    include_usage: bool | None = None


class Sampled(Formed, kw_only=True):
    """The common fields of chat and plain completions."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: NumChoices | None = None
    stop: str | list[str] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    seed: Seed | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Retention | None = None
    service_tier: ServiceTier | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    ignore_eos: bool | None = None


_VENDORS_STOPS = 4
_PATIENT_TIERS = ("flex", "batch")


def check_fields(body: Sampled, adjustments: Adjustments, *, strict: bool) -> None:
    """Note what OpenAI refuses and is answered here; with `strict` raise `InvalidRequestError` for it."""
    if isinstance(body.stop, list) and len(body.stop) > _VENDORS_STOPS:
        if strict:
            raise InvalidRequestError(f"expected at most {_VENDORS_STOPS} stop strings", param="stop")
        adjustments.note("many_stop_strings")
    if body.stream_options is not None and not body.stream:
        if strict:
            raise InvalidRequestError("is allowed only when stream is true", param="stream_options")
        adjustments.note("stream_options_without_stream")


def sampling_of(
    body: Sampled, *, max_tokens: int | None, logprobs: bool = False, top_logprobs: int = 0
) -> SamplingParams:
    """Return the sampling parameters; absent ones have the model's default, else OpenAI's (neutral) one."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return SamplingParams.of(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=0 if body.top_k == -1 else body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_logit_bias(body.logit_bias or {}),
        # -1 asks for a seed of chance.
        seed=None if body.seed == -1 else body.seed,
        stop=tuple(stop for stop in stops if stop),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        ignore_eos=bool(body.ignore_eos),
    )


def token_limit(given: int | None, param: str) -> int | None:
    """Return how many tokens the answer may have; None: as many as there is room for."""
    if given == 0:
        raise InvalidRequestError("expected a number >= 1, or -1 for no limit of its own", param=param)
    return None if given == -1 else given


def _logit_bias(biases: Mapping[str, float]) -> dict[int, float]:
    if len(biases) > LIMITS.logit_biases:
        raise InvalidRequestError(f"expected at most {LIMITS.logit_biases} biased tokens", param="logit_bias")
    read: dict[int, float] = {}
    for key, value in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise InvalidRequestError("expected token ids as keys", param=f"logit_bias.{key[:40]}")
        if not -100 <= value <= 100:
            raise InvalidRequestError("expected a number from -100 to 100", param=f"logit_bias.{key}")
        read[int(key)] = value
    return read


def tier_used(asked: ServiceTier | None, priority: Priority) -> str:
    """Return the service tier that a request was processed in, which an answer names in place of the one asked for."""
    return "flex" if asked in _PATIENT_TIERS and priority == "background" else "default"


def retention_s(retention: Retention | None) -> float | None:
    """Return for how many seconds the client asks to keep the prompt's blocks; None: as long as there is room."""
    return 86_400.0 if retention == "24h" else None

"""A request to generate, the events of its answer, and its usage."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from semanticd.domain.chat import ChatPrompt, Prompt, ToolCallPart
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.stop_matcher import VisibleStops

Priority = Literal["interactive", "background"]
WaitReason = Literal["restore", "place", "leader", "memory", "turn", "model", "prompt"]
"""Reason why a request waits: blocks from the disk, a place in the batch, a prefix that another request computes, RAM,
its turn, a model that is being loaded, or its prompt, which is being read."""
CacheTier = Literal["hot", "warm", "cold"]


MissCause = Literal[
    "first_request",
    "evicted",
    "gone_before_start",
    "files_missing",
    "files_damaged",
    "peer_failed",
    "no_snapshot",
    "model_changed",
    "date_changed",
    "tools_changed",
    "tools_reordered",
    "system_changed",
    "history_changed",
    "thinking_dropped",
]
"""Likely reason why a prompt diverged from the cache."""

CAUSES_OF_LOSS: frozenset[MissCause] = frozenset(
    {"evicted", "gone_before_start", "files_missing", "files_damaged"}
)
"""Causes by which cached blocks were lost, so that their tokens are computed again."""


class FinishReason(enum.Enum):
    """Reason why a sequence ended."""

    STOP = "stop"
    """The model ended its turn."""
    LENGTH = "length"
    """`max_tokens`, or the end of the context."""
    STOP_SEQUENCE = "stop_sequence"
    """One of the request's stop strings was produced."""
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. The defaults are neutral; `temperature=0` means greedy.

    Ranges: temperature >= 0; 0 < top_p <= 1; top_k >= 0 (0: all); 0 <= min_p <= 1; repetition_penalty > 0
    (1: none); presence and frequency penalty in [-2, 2] (0: none). Penalties look at `penalty_window` last tokens.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] | VisibleStops = ()
    logprobs: bool = False
    top_logprobs: int = 0
    ignore_eos: bool = False
    given: frozenset[str] | None = field(default=None, compare=False)
    """Fields that the client set, which a model's defaults leave alone; None: all of them."""

    @classmethod
    def of(cls, **fields: Any) -> SamplingParams:
        """Build the parameters of a request, in which None means that the client did not say."""
        known = {name: value for name, value in fields.items() if value is not None}
        return cls(**known, given=frozenset(known))

    def with_defaults(self, defaults: ModelDefaults) -> SamplingParams:
        """Return these parameters with a model's own values where the client gave none."""
        if self.given is None:
            return self
        values = {name: getattr(defaults, name) for name in SAMPLING_DEFAULTS if name not in self.given}
        known = {name: value for name, value in values.items() if value is not None}
        return replace(self, **known) if known else self


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Sampling values of a model's publisher or registry entry for requests that set none; None: no value.

    Ranges as in `SamplingParams`. `thinking` is the template option `enable_thinking`.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    thinking: bool | None = None

    def or_else(self, others: ModelDefaults) -> ModelDefaults:
        """Return these defaults, and the others where these have none."""
        return replace(others, **{name: value for name, value in asdict(self).items() if value is not None})

    def of_prompt(self, prompt: Prompt) -> Prompt:
        """Return the prompt, which thinks as these defaults say where it does not say itself."""
        if self.thinking is None or not isinstance(prompt, ChatPrompt):
            return prompt
        options = {"enable_thinking": self.thinking, **prompt.template_options}
        return replace(prompt, template_options=options)

    def of_request(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request with these values where it gave none."""
        prompt, sampling = self.of_prompt(request.prompt), request.sampling.with_defaults(self)
        if prompt is request.prompt and sampling is request.sampling:
            return request
        return replace(request, prompt=prompt, sampling=sampling)


SAMPLING_DEFAULTS = tuple(f.name for f in fields(ModelDefaults) if f.name != "thinking")


@dataclass(frozen=True, slots=True)
class OutputConstraint:
    """A form that the output must have, enforced while sampling; `any` bounds nothing but the thinking.

    `tool_call` is nothing but calls, `optional_call` text in which calls, if any, have their form.
    """

    kind: Literal["any", "json_object", "json_schema", "regex", "lark", "tool_call", "optional_call"]
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    max_tokens: int | None = None
    """Tokens the answer may have: before they are used up, the form is led to its end."""
    thinking_budget: int | None = None
    """Tokens the model may think before it must answer."""
    begins_thinking: bool = False
    """Whether the prompt itself opens the thinking, so that the form begins after it."""
    may_relax: bool = False
    """Whether words of a schema that cannot be enforced are left out, instead of refusing the form."""
    param: str = field(default="response_format", compare=False)
    """The request's field that asks for the form."""
    not_enforced: tuple[str, ...] = field(default=(), compare=False)
    """The words that were left out when it was compiled."""
    compiled: Any = field(default=None, compare=False, repr=False)
    """The form as compiled before admission; only the model's adapter reads it."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A client's request, independent of the dialect."""

    request_id: RequestId
    model: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    agent_id: AgentId | None = None
    client: str = ""
    """Owner of its places in the queue while no agent is named, a key or an address; empty: the request itself."""
    share: str = ""
    """Owner of its share of engine time while no agent is named; empty: the request. A body's prompts have the same."""
    priority: Priority = "interactive"
    constraint: OutputConstraint | None = None
    num_choices: int = 1
    echo: bool = False
    """Answer with the prompt's text (and log-probabilities, if asked) before the completion."""
    cache_breakpoints: tuple[int, ...] = ()
    """Indices of messages after which the client wants the prefix kept (Anthropic `cache_control`)."""
    cache_ttl_s: float | None = None
    thinking_budget: int | None = None
    """Tokens the model may think before it must answer (None: no bound of its own)."""
    parse_output: bool = True
    """Whether thinking and tool calls are separated from text."""
    conversation: bool = False
    """True when the server itself keeps the agent's conversation (Direct Agent API)."""
    follows_text: bool = False
    """Whether its messages follow the agent's own text, the prompt and answer of its last turn: its client keeps the
    conversation otherwise."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    relax_form: bool = False
    """Whether a form that can be enforced in part only is, instead of being refused."""
    adjustments: tuple[str, ...] = ()
    """Changes by the dialect that made the request answerable, such as `image_omitted=1`."""
    trace_parent: str | None = None
    """Under which span its phases are traced (W3C trace context); None: it is not traced."""

    @property
    def operation(self) -> str:
        """Operation name by OpenTelemetry's GenAI conventions."""
        return "chat" if isinstance(self.prompt, ChatPrompt) else "text_completion"

    @property
    def tools_offered(self) -> bool:
        """Whether the model may call a tool."""
        prompt = self.prompt
        return isinstance(prompt, ChatPrompt) and bool(prompt.tools) and prompt.tool_choice.mode != "none"


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """The position of a cache miss, and its likely cause.

    `position` counts tokens from the prompt's start; `expected` and `found` are decoded text around it.
    """

    position: int
    cause: str
    """A `MissCause`; kept as text, because files of other versions may know others."""
    expected: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The cost of a request's prompt: all counts are tokens and add up to `prompt_tokens`."""

    prompt_tokens: int = 0
    reused_hot_tokens: int = 0
    restored_warm_tokens: int = 0
    computed_tokens: int = 0
    miss: CacheMiss | None = None
    canonicalized: tuple[str, ...] = ()
    """Parts of the prompt that were normalized before the look-up: `volatile_header`, `tool_key_order`,
    `volatile_sections`."""

    @property
    def cached_tokens(self) -> int:
        """Tokens that were not computed for this request."""
        return self.reused_hot_tokens + self.restored_warm_tokens

    @property
    def tier(self) -> CacheTier:
        """The coldest tier this request had to touch before computing."""
        if self.restored_warm_tokens:
            return "warm"
        return "hot" if self.reused_hot_tokens else "cold"


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in milliseconds, measured on the engine's clock."""

    queue_ms: float = 0.0
    restore_ms: float = 0.0
    prefill_ms: float = 0.0
    ttft_ms: float = 0.0
    """From submission to the first token."""
    decode_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in, tokens out, and the tokens that the cache saved."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cache: CacheReport = CacheReport()
    timings: Timings = Timings()
    stored_tokens: int = 0
    """Prompt tokens whose KV was newly kept by this request."""
    is_cut_short: bool = False
    """Whether the answer ended because the KV budget had no room for more."""
    is_unsaved: bool = False
    """Whether the turn is in memory only, where the server keeps it: the disk refused it, or is not done in time."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability (natural logarithm; NaN for a prompt's first token), with its rivals."""

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt was matched against the cache and its work begins; always the first event."""

    request_id: RequestId
    model: ModelId
    agent_id: AgentId
    cache: CacheReport
    choice: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More of the model's thinking."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model began to call a tool; `index` counts the calls of this choice from 0."""

    index: int
    call_id: str
    name: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call's arguments: a piece of JSON text."""

    index: int
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallBroken:
    """A call that ended before its arguments were complete: not a call after all, and `text` is the written part.

    A stream that has shown its beginning cannot take that back; whole answers hold the text in its place.
    """

    index: int
    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The choice is complete; nothing follows it for this choice."""

    reason: FinishReason
    usage: Usage
    stop_sequence: str | None = None
    choice: int = 0


GenerationEvent = (
    Started | TextDelta | ThinkingDelta | ToolCallStarted | ToolCallDelta | ToolCallBroken | Finished
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One complete answer."""

    text: str
    thinking: str
    tool_calls: tuple[ToolCallPart, ...]
    reason: FinishReason
    stop_sequence: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Everything a request that does not stream is answered with."""

    request_id: RequestId
    model: ModelId
    agent_id: AgentId
    choices: tuple[Choice, ...]
    usage: Usage

"""A sequence with all that it holds while the engine works on it: submission, reservation, text so far, times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from semanticd.application.cache.reservation import Reservation
from semanticd.application.engine.running_size import RunningSize, running_size
from semanticd.application.ports.inference import DecodedToken, LoadedModel, ModelRunner, StreamDecoder
from semanticd.domain.block import Block
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.block_tree import OfferedBlocks
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.errors import SemanticError
from semanticd.domain.generation import (
    CacheReport,
    FinishReason,
    OutputConstraint,
    SamplingParams,
    Timings,
    TokenLogprob,
    Usage,
    WaitReason,
)
from semanticd.domain.ids import AgentId, BlockHash, ModelId, RequestId, SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.prefix_index import MatchedBlock, PrefixMatch
from semanticd.domain.sequence import Sequence
from semanticd.domain.stop_matcher import StopMatcher
from semanticd.domain.transcript import Cut, Segment, token_ids_of

_TAIL_TOKENS = 8
"""Tokens whose text shows whether the last of them ends inside a character."""


@dataclass(frozen=True, slots=True)
class SequenceStarted:
    """The prompt was matched and restored; its remaining tokens are computed from here on."""

    cache: CacheReport


@dataclass(frozen=True, slots=True)
class SequenceText:
    """Text that is certain, with the tokens' log-probabilities if they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    num_tokens: int = 0
    """Tokens of the answer so far."""


@dataclass(frozen=True, slots=True)
class SequenceEnded:
    """The answer is complete."""

    reason: FinishReason
    usage: Usage
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class SequenceFailed:
    """The answer ended early."""

    error: SemanticError


SequenceUpdate = SequenceStarted | SequenceText | SequenceEnded | SequenceFailed


@dataclass(slots=True)
class LongestWait:
    """The reason for which a request waited longest, as observed; set by another thread."""

    reason: WaitReason | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """One answer to make, as it enters the engine."""

    request_id: RequestId
    agent_id: AgentId
    model_id: ModelId
    segments: tuple[Segment, ...]
    """The prompt as a chain of text and ids; the last segment was newly tokenized."""
    sampling: SamplingParams
    max_new_tokens: int
    seed: int
    sink: Callable[[SequenceUpdate], None]
    """Called on the engine thread; must not block."""
    constraint: OutputConstraint | None = None
    priority: str = "interactive"
    snapshot_points: tuple[int, ...] = ()
    """Prompt positions (tokens) after which the prefix is worth keeping on its own."""
    score_prompt: bool = False
    """Report log-probabilities of the prompt's tokens (no cached prefix is used then)."""
    choice: int = 0
    cache_ttl_s: float | None = None
    records_turn: bool = True
    anonymous: bool = False
    """Whether the agent was named by us, after how the conversation begins."""
    share: str = ""
    """Owner of the share of engine time it uses; empty: its agent. An anonymous body has its own, for all prompts."""
    held_by: str = ""
    """Owner of its place in the queue; empty: the owner of its share of engine time."""
    system_tokens: int = 0
    trace_parent: str | None = None
    """Under which span its phases are traced (W3C trace context); None: it is not traced."""
    canonicalized: tuple[str, ...] = ()
    """See `CacheReport.canonicalized`."""
    turn_start: Cut | None = None
    """Start of the messages since the last answer; None: there are none, or the prompt extends its agent's text."""
    chain: BlockChain | None = None
    """Names of the prompt's full blocks; None: the engine computes them."""
    salt: str = ""
    """See `Agent.salt`: the conversation is recorded under it, also where its agent was deleted meanwhile."""
    root: BlockHash | None = None
    """Root below which its blocks are looked up and kept; None: the root that all agents of the model share."""
    main_agent_id: AgentId | None = None
    """The agent of a request that may belong to a side conversation; see `AgentRegistry.holder`."""
    conversation: ConversationKey | None = None
    """Conversation that the prompt belongs to; None: the agent's own, whatever it holds."""
    arrived_at: float | None = None
    """Arrival of the request on the engine's clock (seconds), so that waiting before the engine accepts it counts too.
    None: the time at which the engine accepts it."""
    waited: LongestWait = field(default_factory=LongestWait)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return token_ids_of(self.segments)

    @property
    def is_held_by_agent(self) -> bool:
        """Whether the holder is an agent that a client named."""
        return not self.anonymous

    @property
    def holder(self) -> str:
        """Holder of its place in the queue; see `EngineQueue`."""
        return self.held_by or self.share or (self.request_id if self.anonymous else self.agent_id)


@dataclass(slots=True)
class RunningSequence:
    """The engine's working record of one answer."""

    submission: Submission
    sequence: Sequence
    model: LoadedModel
    decoder: StreamDecoder
    stops: StopMatcher
    submitted_at: float
    reservation: Reservation
    """Locks, reads and promised bytes; ended with the sequence."""
    match: PrefixMatch = field(default_factory=PrefixMatch)
    fits_beside_pins: bool = False
    """Whether it was found to fit next to pinned blocks, so that later pins are displaced by it."""
    restored: frozenset[BlockHash] = frozenset()
    """Blocks of the match that were read from the disk for this sequence."""
    disk_failed: bool = False
    """Whether the disk did not bring its blocks (in time), so that they are computed."""
    beyond: tuple[MatchedBlock, ...] = ()
    """Blocks of the match that do not fit next to the running cache."""
    read_before: frozenset[BlockHash] = frozenset()
    """Blocks that were read for it before a damaged one made it match again."""
    num_rematched: int = 0
    """Number of times that a damaged block made it match again."""
    asked_files: bool = False
    """Whether block files that the disk index may lack were searched for."""
    asked_peers: bool = False
    """Whether it is settled what peers have of its prompt."""
    offered: OfferedBlocks | None = None
    """Blocks of its prompt that peers offered."""
    from_peers: Mapping[BlockHash, Block] = field(default_factory=dict)
    """Blocks of the match that are to come from peers."""
    peer_failed: bool = False
    """Whether a peer did not bring a block that it has, so that it is computed."""
    pending_reads: int = 0
    """Blocks that are still to arrive from the disk."""
    restore_began_at: float | None = None
    restore_s: float = 0.0
    admitted_at: float | None = None
    prefill_s: float = 0.0
    decode_began_at: float | None = None
    decode_steps: int = 0
    """Decode steps that brought it tokens: fewer than those where drafts were right."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    started: bool = False
    visible_text: list[str] = field(default_factory=list)
    held_logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[DecodedToken] = field(default_factory=list)
    is_torn: bool = False
    """Whether its running cache cannot be read, as a prefill was left in the middle."""
    num_shortages: int = 0
    """Times that memory ran out in a step that it took part in."""
    num_stored: int = 0
    stop_sequence: str | None = None
    is_cut_short: bool = False
    """Whether its answer ends because the budget has no room for more."""
    has_ended: bool = False
    """Whether its last update was sent."""
    _text_ends: list[int] = field(default_factory=list)
    """For each generated token, the characters of text that are certain once it is there."""
    _num_characters: int = 0

    @property
    def sequence_id(self) -> SequenceId:
        """The sequence's id."""
        return self.sequence.sequence_id

    @property
    def runner(self) -> ModelRunner:
        """The runner of its model."""
        return self.model.runner

    @property
    def spec(self) -> ModelCacheSpec:
        """The cache layout of its model."""
        return self.model.runner.spec

    @property
    def size_alone(self) -> RunningSize:
        """Size in bytes of the running cache if no other sequence is in the batch."""
        return running_size(self.spec, self.sequence.num_tokens + 1)

    @property
    def bytes_alone(self) -> int:
        """The bytes of that."""
        return self.size_alone.num_bytes

    def send(self, update: SequenceUpdate) -> None:
        """Hand an update to the client's stream."""
        self.submission.sink(update)

    def usage(self, now: float) -> Usage:
        """Return the usage as of this clock reading (seconds)."""
        begun = self.admitted_at if self.admitted_at is not None else now
        first = self.first_token_at if self.first_token_at is not None else now
        return Usage(
            prompt_tokens=len(self.sequence.prompt_ids),
            completion_tokens=len(self.sequence.output_ids),
            cache=self.sequence.cache,
            stored_tokens=self.num_stored,
            is_cut_short=self.is_cut_short,
            timings=Timings(
                queue_ms=1000 * max(begun - self.submitted_at - self.restore_s, 0.0),
                restore_ms=1000 * self.restore_s,
                prefill_ms=1000 * self.prefill_s,
                ttft_ms=1000 * (first - self.submitted_at),
                decode_ms=1000 * max(now - first, 0.0),
                total_ms=1000 * (now - self.submitted_at),
            ),
        )

    def take(self, token: DecodedToken) -> tuple[str, bool]:
        """Add a generated token; returns text that may be sent now, and whether a stop string was completed."""
        self.sequence.output_ids.append(token.token_id)
        text = self.decoder.add(token.token_id)
        self._num_characters += len(text)
        self._text_ends.append(self._num_characters)
        if token.logprob is not None:
            self.held_logprobs.append(self.describe(token))
        return self._pass_on(text)

    def flush(self, *, cut: bool) -> tuple[str, bool]:
        """Return the text still held back, at the end of the answer or where it is `cut`; whether it was stopped."""
        text, stopped = self._pass_on(self.decoder.finish())
        if stopped:
            return text, True
        result = self.stops.finish(cut=cut)
        if result.matched is not None:
            self.stop_sequence = result.matched
        return self._show(text + result.text), result.matched is not None

    def _pass_on(self, text: str) -> tuple[str, bool]:
        if not text:
            return "", False
        result = self.stops.feed(text)
        if result.matched is not None:
            self.stop_sequence = result.matched
        return self._show(result.text), result.matched is not None

    def _show(self, text: str) -> str:
        if text:
            self.visible_text.append(text)
        return text

    def describe(self, token: DecodedToken) -> TokenLogprob:
        """Return a scored token with its text."""
        decode = self.model.tokenizer.decode
        top = tuple((token_id, decode([token_id]), logprob) for token_id, logprob in token.top)
        return TokenLogprob(token.token_id, decode([token.token_id]), token.logprob or 0.0, top)

    def release_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return the log-probabilities not yet sent."""
        released = tuple(self.held_logprobs)
        self.held_logprobs.clear()
        return released

    def kept_output(self) -> tuple[tuple[int, ...], str]:
        """Return the output ids that belong to the conversation, and their text.

        After a stop string the client does not see the last tokens; what it will send back ends where the visible
        text ends, so ids beyond it must not be taken as known.
        """
        ids = tuple(self.sequence.output_ids)
        decode = self.model.tokenizer.decode
        if self.stop_sequence is None:
            return ids, decode(ids)
        num_visible = sum(len(text) for text in self.visible_text)
        num_kept = bisect_right(self._text_ends, num_visible)
        # A token that ends inside a character belongs to the text that follows.
        while num_kept and decode(ids[max(num_kept - _TAIL_TOKENS, 0) : num_kept]).endswith("\ufffd"):
            num_kept -= 1
        return ids[:num_kept], decode(ids[:num_kept])


Running: TypeAlias = dict[SequenceId, RunningSequence]
"""The sequences in the engine, in order of arrival."""

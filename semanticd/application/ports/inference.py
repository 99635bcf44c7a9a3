"""The ports of a model: a runner for its tensors, a tokenizer for its text.

A `ModelRunner` and everything it returns live on the engine thread; no other thread may call it. A `Tokenizer` may be
called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.chat import ChatPrompt
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.generation import GenerationEvent, ModelDefaults, OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, ModelId, SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.stop_matcher import VisibleStops

_T = TypeVar("_T")


class BlockPayload(Protocol):
    """A block's tensors in memory, in storage precision."""

    @property
    def num_bytes(self) -> int:
        """Bytes held."""


@dataclass(frozen=True, slots=True)
class PrefixPart:
    """A block to restore and how many of its leading tokens to use."""

    payload: BlockPayload
    num_tokens: int


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One sequence's next token; its KV is already in the cache.

    `logprob` and `top` (token id, log-probability; best first) are filled only for sequences that asked.
    """

    sequence_id: SequenceId
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: Exception | None = None
    """Error of this row's sampling, after which it cannot continue; the other rows are not affected."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """Tokens that were guessed from one source and verified."""

    num_drafted: int = 0
    num_accepted: int = 0
    """Of them those that were right: each saved a step."""

    def plus(self, other: Drafted) -> Drafted:
        """Return the sum."""
        return Drafted(self.num_drafted + other.num_drafted, self.num_accepted + other.num_accepted)


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """Guessed and verified tokens by their source, and the number of verifying steps."""

    forced: Drafted = Drafted()
    """Tokens that a form forces."""
    own: Drafted = Drafted()
    """Earlier text of the sequence itself, including its prompt."""
    earlier: Drafted = Drafted()
    """Earlier answers of its agent."""
    num_steps: int = 0

    @property
    def by_source(self) -> dict[str, Drafted]:
        """The sources by name."""
        return {"forced": self.forced, "own": self.own, "earlier": self.earlier}

    @property
    def num_drafted(self) -> int:
        """Tokens from all sources."""
        return sum(one.num_drafted for one in self.by_source.values())

    @property
    def num_accepted(self) -> int:
        """Of them those that were right."""
        return sum(one.num_accepted for one in self.by_source.values())

    def plus(self, other: DraftCounts) -> DraftCounts:
        """Return the sum."""
        return DraftCounts(
            self.forced.plus(other.forced),
            self.own.plus(other.own),
            self.earlier.plus(other.earlier),
            self.num_steps + other.num_steps,
        )


class ModelRunner(Protocol):
    """Runs one model: prefill one sequence at a time, decode all of them together."""

    @property
    def spec(self) -> ModelCacheSpec:
        """The model's cache layout."""

    @property
    def makes_drafts(self) -> bool:
        """Whether the runner makes drafts, so that earlier answers are useful."""

    def open(
        self,
        sequence_id: SequenceId,
        *,
        prefix: Sequence[PrefixPart],
        state: BlockPayload | None,
        capacity_tokens: int,
    ) -> None:
        """Begin a sequence whose first tokens are restored from blocks (and a state snapshot where needed)."""

    def append(self, sequence_id: SequenceId, part: PrefixPart) -> None:
        """Put a block behind what the sequence holds before its prefill; for models whose layers all cut anywhere."""

    def prefill(
        self,
        sequence_id: SequenceId,
        token_ids: Sequence[int],
        *,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Compute the KV of these next prompt tokens; returns whether all was computed.

        `is_unwanted` is asked now and then meanwhile. Once it says yes the rest is left, and nothing can be copied out
        of the sequence's running cache any more.
        """

    def prefill_logprobs(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, targets: Sequence[int], top: int
    ) -> list[DecodedToken]:
        """Like `prefill`; entry i scores `targets[i]`, the token that follows `token_ids[i]`."""

    def embed(self, texts: Sequence[Sequence[int]], *, dimensions: int | None) -> list[bytes]:
        """Return a vector for each text: float32, little-endian, of length one; all are computed at once.

        `dimensions` are the leading numbers that are wanted (None: all).

        Raises:
            InvalidRequestError: More dimensions are wanted than there are.
            UnsupportedError: The model has no vectors.
        """

    def embed_part(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, is_last: bool, dimensions: int | None
    ) -> bytes | None:
        """Compute the next tokens of a text; returns its vector, as `embed` does, with the last ones.

        Its running cache is there from the first tokens to `close`.
        """

    def start_decode(
        self,
        sequence_id: SequenceId,
        *,
        last_token: int,
        context: Sequence[int],
        num_generated: int,
        sampling: SamplingParams,
        constraint: OutputConstraint | None,
        seed: int,
        group: int = 0,
        max_length: int | None = None,
        earlier: EarlierText | None = None,
    ) -> None:
        """Join the decode batch of this number: `last_token` is fed first; `context` holds all earlier ids.

        Tokens of `context` that are not in the cache are computed together with `last_token`.

        `num_generated` counts the tokens this answer already has (after a preemption), so that a seeded sampler
        continues where it was. No more than `max_length` tokens of prompt and answer are wanted (None: not known).
        `earlier` is what the sequence's agent answered before, from which tokens may be guessed.
        """

    def decode(self, group: int = 0) -> list[DecodedToken]:
        """Return the next token of every sequence in this decode batch, mostly by running a step.

        A runner that has the first tokens of sequences that just joined may return those alone, and none after them.
        One that guesses tokens may return several of a sequence, in their order; the same ones that it would return
        one by one.
        """

    def take_draft_counts(self) -> DraftCounts:
        """Return the counts of guessed tokens since the last call."""

    def copy_blocks(self, sequence_id: SequenceId, spans: Sequence[tuple[int, int]]) -> list[BlockPayload]:
        """Copy the KV of each span of positions [start, end) out, in storage precision, all in one evaluation.

        Payloads are not views of the running cache, and never change.
        """

    def copy_state(self, sequence_id: SequenceId) -> BlockPayload | None:
        """Snapshot the layers that cannot be cut, as of now; None when there are none."""

    def num_cached(self, sequence_id: SequenceId) -> int:
        """Tokens whose KV the running cache of this sequence holds."""

    def close(self, sequence_id: SequenceId) -> None:
        """Leave the batch and free the running cache. Unknown ids are ignored."""

    def running_bytes(self) -> int:
        """Bytes of all running caches, padding and spare room included."""

    def spare_bytes(self, group: int) -> int:
        """Bytes of this decode batch that no row needs now: room that rows left, for the next ones to join."""

    def compact(self) -> int:
        """Free the spare room of all decode batches, by copying their rows; returns the bytes."""

    def dump(self, payload: BlockPayload) -> tuple[TensorBytes, ...]:
        """Return a payload as bytes that any thread may read: views where it has them, which keep it alive."""

    def restore(self, tensors: Sequence[TensorBytes]) -> BlockPayload:
        """Turn bytes into a payload.

        Raises:
            CacheError: Names, types or shapes do not fit the model.
        """

    def release(self) -> None:
        """Free the weights and everything else."""


class StreamDecoder(Protocol):
    """Turns one sequence's tokens into text as they come; holds back incomplete characters."""

    def add(self, token_id: int) -> str:
        """Return the text that became certain with this token (may be empty)."""

    def finish(self) -> str:
        """Return the text still held back."""


class OutputParser(Protocol):
    """Separates thinking and tool calls from text, for one answer; never raises."""

    def feed(self, text: str) -> list[GenerationEvent]:
        """Take more text; return the events it completes."""

    def finish(self, *, cut: bool = False) -> list[GenerationEvent]:
        """Take the end of the text; what does not parse becomes text, except a call that was `cut` by its room."""

    @property
    def num_tool_calls(self) -> int:
        """Calls begun so far, except those that broke off (`ToolCallBroken`)."""

    @property
    def num_parse_failures(self) -> int:
        """Calls so far that could not be read."""


class Tokenizer(Protocol):
    """Text to ids and back, and the chat template."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end the model's turn."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens in it are recognised, save in contents that `render` put there."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Apply the chat template.

        Raises:
            InvalidRequestError: The template refuses the conversation.
        """

    def text_ids(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the ids of a text as it is, behind the BOS that the tokenizer wants if `add_special`.

        Without `parse_special` special tokens that are written in it are text.
        """

    def embedding_ids(self, text: str) -> list[int]:
        """Return the ids of a text whose meaning is wanted: what the tokenizer puts around texts is there.

        Special tokens that are written in the text are text.
        """

    def piece(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; they may be a part of a character."""

    def raw_text(self, text: str) -> str:
        """Return a raw prompt's text as it is to be encoded: behind the BOS, if the tokenizer wants one."""

    def canonical_changes(self, prompt: ChatPrompt) -> tuple[str, ...]:
        """Name what `render` leaves out or puts in order so that equal conversations give equal text.

        `volatile_header` (a header line that changes from prompt to prompt), `tool_key_order` (keys of tool schemas).
        """

    def stream_decoder(self) -> StreamDecoder:
        """Return a fresh decoder (special tokens are left out)."""

    def output_parser(self, prompt: ChatPrompt, *, choice: int = 0) -> OutputParser:
        """Return a fresh parser for an answer to this prompt."""

    def tool_constraint(
        self, prompt: ChatPrompt, answer: OutputConstraint | None = None
    ) -> OutputConstraint | None:
        """Return the form that enforces the prompt's tool choice, or None when nothing is to be enforced.

        `answer` is the form of an answer that is not a call: either may come where the choice allows both.
        """

    def visible_stops(
        self, prompt: ChatPrompt, stops: tuple[str, ...], *, formed: bool
    ) -> tuple[str, ...] | VisibleStops:
        """Return stop strings that do not stop inside of thinking and calls.

        `formed` says that the answer has a form of its own from its first token, without markup before it.
        """

    def with_thinking(
        self, prompt: ChatPrompt, constraint: OutputConstraint | None, *, budget: int | None, max_tokens: int
    ) -> OutputConstraint | None:
        """Return the constraint with the thinking that may come before the form; None when nothing is bounded.

        `budget` is how many tokens the client allows for thinking, `max_tokens` how many the whole answer may have.
        """

    def find_constraint(self, constraint: OutputConstraint) -> OutputConstraint | None:
        """Return the constraint with its form if that was compiled before; None if it has to be compiled.

        Raises:
            InvalidRequestError: The constraint is known to be impossible to compile.
        """

    def compile_constraint(self, constraint: OutputConstraint) -> OutputConstraint:
        """Return the constraint with its compiled form; this may take seconds.

        Raises:
            InvalidRequestError: The constraint cannot be compiled.
        """


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, ready to run."""

    model_id: ModelId
    fingerprint: ModelFingerprint
    runner: ModelRunner
    tokenizer: Tokenizer
    context_length: int
    weights_bytes: int
    description: Mapping[str, Any]
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    """For what a request leaves open."""
    settings_digest: str = ""
    """See `InstalledModel.settings_digest`."""
    kv_room_bytes: int | None = None
    """Maximum bytes of its KV where other machines hold a part too, whatever this one has room for; None: no limit."""
    best_chunk: int | None = None
    """Prompt tokens in one step that this machine computes fastest, as measured here; None: it was not measured."""

    @property
    def content(self) -> tuple[ModelFingerprint, str]:
        """See `InstalledModel.content`."""
        return self.fingerprint, self.settings_digest

    @property
    def chunks(self) -> ChunkTraits:
        """Effect of the prefill chunk length on this machine, for the loaded model."""
        traits = self.runner.spec.chunks
        return traits if self.best_chunk is None else replace(traits, best_tokens=self.best_chunk)


class ModelLoader(Protocol):
    """Brings a model's weights into memory, in slices between which the engine does other things."""

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        """Return a generator that loads a part each time it is advanced, on the engine thread, and returns the model.

        Progress is in [0, 1]. Closing the generator early frees what was loaded. It raises `ModelLoadError` with the
        cause.
        """

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        """Return a generator that reads all of a model's files but the values of its weights, and keeps nothing.

        It raises what `load` would, as far as that depends on the files, and takes no memory for weights: another model
        need not leave for it.
        """


def finish_loading(steps: Generator[None, None, _T]) -> _T:
    """Advance a generator such as `ModelLoader.load` to its end, and return what it returns."""
    result: list[_T] = []

    def run() -> Generator[None, None, None]:
        result.append((yield from steps))

    for _ in run():
        pass
    return result[0]

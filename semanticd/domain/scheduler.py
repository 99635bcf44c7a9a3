"""The scheduler decides what the engine does next; it never does it, and it reads no clock.

Rules, in the order they bind:

1. *Admission.* Waiting sequences start in the order below while a place in the batch is free. Whether their bytes
   fit is the engine's answer (`blocked`); a sequence that does not fit holds back the ones behind it in its class.
2. *Single flight.* A sequence whose prompt continues into tokens another one is computing waits for that one, which
   takes its turns on behalf of all that wait: the agents of the best class among them pay for it in equal parts.
3. *Time share.* While prefill and decode both have work, decode gets at least `decode_share` of engine time, and a
   prefill chunk is cut so that it should last less than `max_stall_s` (see `chunk_policy`). Other work that delays
   decoding (restoring, copying blocks, joining the batch) is charged to prefill, up to `max_batch_size` times
   `max_stall_s` before its next chunk; and none of it begins after decoding has already been delayed for long.
4. *Fair between agents.* Among prefills, and among waiting sequences, the agent that used the least engine time
   goes first, and of two that used equally much the one whose last chunk lies further back; `background` agents go
   after `interactive` ones until they have waited `aging_s`. Within an agent, arrival order. A sequence that has not
   been served for longer than `aging_s` gains a second of credit a second, so that no stream of newcomers can starve
   anyone. An answer that was preempted is admitted before all of its class that are still to begin; while it computes
   again what it lost, it takes turns with them, and the first turn is its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from semanticd.domain.chunk_policy import MARGIN, ChunkLimits, ChunkRates, Company, chunk_tokens
from semanticd.domain.ids import ModelId, SequenceId
from semanticd.domain.sequence import Sequence, SequenceState
from semanticd.domain.single_flight import computes_prefix_of, shared_tokens, waits_for


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The scheduler's settings; times in seconds, sizes in tokens."""

    max_batch_size: int = 5
    prefill_chunk: int = 2048
    min_chunk: int = 16
    decode_share: float = 0.5
    max_stall_s: float = 0.3
    aging_s: float = 30.0
    min_shared_tokens: int = 32
    """A shared beginning shorter than this is not worth waiting for."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Try to start this waiting sequence."""

    sequence_id: SequenceId


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute the next `num_tokens` tokens of this sequence's prompt."""

    sequence_id: SequenceId
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Join:
    """Move this sequence, whose prompt is computed except `max_joining` tokens, to the decode batch."""

    sequence_id: SequenceId


@dataclass(frozen=True, slots=True)
class Decode:
    """Compute one token for every decoding sequence of this model in this decode batch."""

    model_id: ModelId
    group: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing can be done until something happens outside."""


Step = Admit | Prefill | Join | Decode | Idle

_Rank = tuple[int, int, float, float, float, int]
"""Sort key of a sequence, lowest first: class, whether it has yet to begin, and its turn among its equals."""


@dataclass(slots=True)
class _AgentShare:
    used_s: float = 0.0
    num_sequences: int = 0
    served_at: float = float("-inf")
    """Time at which a sequence of the agent was last admitted or prefilled."""
    prefilled_at: float = float("-inf")
    """Time at which the agent's last chunk began."""


@dataclass(slots=True)
class _Rates:
    """Measured speeds of a model, as slowly moving averages."""

    prefill_tokens_per_s: float = 0.0
    decode_step_s: float = 0.0
    decode_token_s: float = 0.0
    chunks: ChunkRates = field(default_factory=ChunkRates)

    @staticmethod
    def blend(old: float, new: float) -> float:
        return new if old == 0.0 else 0.7 * old + 0.3 * new


@dataclass(slots=True)
class Scheduler:
    """Holds the living sequences and decides the next step."""

    limits: SchedulerLimits = field(default_factory=SchedulerLimits)
    block_tokens: int = 256
    _sequences: dict[SequenceId, Sequence] = field(default_factory=dict)
    _held: set[SequenceId] = field(default_factory=set)
    _blocked: set[SequenceId] = field(default_factory=set)
    _following: dict[SequenceId, tuple[SequenceId, int]] = field(default_factory=dict)
    """For a waiting sequence, the one it waits for, and the number of leading tokens that the two share."""
    _followers: dict[SequenceId, dict[SequenceId, None]] = field(default_factory=dict)
    """For a sequence, those that were found to wait for it; they may wait for another one by now."""
    _shares: dict[str, _AgentShare] = field(default_factory=dict)
    _rates: dict[ModelId, _Rates] = field(default_factory=dict)
    _balance_s: float = 0.0
    """Decode's credit against its share while both kinds of work wait; below zero it is decode's turn."""
    _served_level_s: float = 0.0
    """The most that an agent had used after a chunk of its prompt (seconds); never goes back, see `_entry_level`."""
    _lost_s: float = 0.0
    """Decode's credit that prefill owes for work other than its own since its last chunk, in seconds."""
    _chunk_is_due: bool = False
    """Whether prefill owed so much that a chunk comes before others start and join."""
    _returned_s: float = 0.0
    """By how much preempted answers that return were prefilled longer than those that waited alongside them."""
    _stall_s: float = 0.0
    """Engine time since the last decode step."""
    _decided_at: float = 0.0
    """Clock reading of the last decision (seconds)."""
    _last_decoded: tuple[ModelId, int] | None = None

    # Membership.

    def add(self, sequence: Sequence) -> None:
        """Take a new waiting sequence; see `_entry_level` for an agent new to the scene."""
        self._sequences[sequence.sequence_id] = sequence
        share = self._shares.get(_share_of(sequence))
        if share is None:
            share = self._shares[_share_of(sequence)] = _AgentShare(self._entry_level())
        share.num_sequences += 1

    def _entry_level(self) -> float:
        """Return the engine time (seconds) that an agent new to the scene is taken to have used.

        It starts level with the most that any agent had used when its prompt was served. From the least, an agent that
        was served once would wait for all newcomers; from the last, agents with cheap turns that leave and come back
        would go before one that entered after another. Agents that wait are at most `aging_s` ahead of it.
        """
        least = min((share.used_s for share in self._shares.values()), default=None)
        if least is None:
            return 0.0
        return min(max(self._served_level_s, least), least + self.limits.aging_s)

    def remove(self, sequence_id: SequenceId) -> None:
        """Forget a finished sequence; room that it leaves may unblock others."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return
        self._held.discard(sequence_id)
        self._following.pop(sequence_id, None)
        self._followers.pop(sequence_id, None)
        share = self._shares[_share_of(sequence)]
        share.num_sequences -= 1
        if share.num_sequences == 0:
            del self._shares[_share_of(sequence)]
        if not self._shares:
            self._served_level_s = 0.0
        self.unblock()

    def __contains__(self, sequence_id: SequenceId) -> bool:
        return sequence_id in self._sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def get(self, sequence_id: SequenceId) -> Sequence | None:
        """Return a living sequence."""
        return self._sequences.get(sequence_id)

    def sequences(self) -> list[Sequence]:
        """Return all living sequences, in arrival order."""
        return list(self._sequences.values())

    def in_state(self, state: SequenceState) -> list[Sequence]:
        """Return the sequences in a state, in arrival order."""
        return [s for s in self._sequences.values() if s.state is state]

    @property
    def num_running(self) -> int:
        """Places taken in the batch; a sequence that waits for its blocks takes none."""
        running = (SequenceState.PREFILLING, SequenceState.DECODING)
        return sum(1 for s in self._sequences.values() if s.state in running)

    def hold(self, sequence_id: SequenceId) -> None:
        """Leave a sequence alone while its blocks are being restored or its model is changing."""
        self._held.add(sequence_id)

    def release(self, sequence_id: SequenceId) -> None:
        """Undo `hold`."""
        self._held.discard(sequence_id)

    def is_held(self, sequence_id: SequenceId) -> bool:
        """Return whether the sequence's blocks are being restored."""
        return sequence_id in self._held

    def others_run(self, sequence_id: SequenceId) -> bool:
        """Return whether any other sequence runs or is being restored."""
        return any(
            other.state is not SequenceState.WAITING or self.is_held(other.sequence_id)
            for other in self._sequences.values()
            if other.sequence_id != sequence_id
        )

    def block(self, sequence_id: SequenceId) -> None:
        """Note that a waiting sequence does not fit at present."""
        self._blocked.add(sequence_id)

    def is_blocked(self, sequence_id: SequenceId) -> bool:
        """Return whether the sequence did not fit at its last attempt."""
        return sequence_id in self._blocked

    def unblock(self) -> None:
        """Room may have appeared: try the blocked ones again."""
        self._blocked.clear()

    # Measurements.

    def record_prefill(self, sequence: Sequence, *, num_tokens: int, seconds: float) -> None:
        """Account a prefill chunk, which `sequence.num_cached` counts already."""
        rates = self._rates.setdefault(sequence.model_id, _Rates())
        # The few tokens at a prompt's end cost nearly as much as many and would make every chunk look slow.
        if seconds > 0 and num_tokens >= self.limits.min_chunk:
            rates.prefill_tokens_per_s = rates.blend(rates.prefill_tokens_per_s, num_tokens / seconds)
            rates.chunks.record(num_tokens, seconds, num_cached=sequence.num_cached - num_tokens)
        served = [sequence, *self._followers_of(sequence)]
        best = min(self._class(one, self._decided_at) for one in served)
        payers = [one for one in served if self._class(one, self._decided_at) == best]
        self._charge_each(payers, seconds)
        used = [share.used_s for one in payers if (share := self._shares.get(_share_of(one)))]
        self._served_level_s = max(self._served_level_s, min(used, default=0.0))
        if any(_returns(one) for one in served):
            self._returned_s += seconds
        else:
            self._returned_s = max(self._returned_s - seconds, 0.0)
        self._lost_s = 0.0
        self._chunk_is_due = False
        self._stall(seconds)

    def record_stall(self, seconds: float) -> None:
        """Account engine time that was neither prefill nor decoding: restoring, copying, joining."""
        self._stall(seconds)
        if not self.in_state(SequenceState.DECODING):
            self._lost_s = 0.0
            return
        self._lost_s += seconds * self.limits.decode_share
        most = self.limits.max_batch_size * self.limits.max_stall_s * self.limits.decode_share
        if self._lost_s > most:
            # An endless series of starts and joins would leave no time for the prompt computed alongside them.
            self._balance_s += self._lost_s
            self._lost_s = 0.0
            self._chunk_is_due = True

    def _stall(self, seconds: float) -> None:
        self._stall_s += seconds
        if self.in_state(SequenceState.DECODING):
            self._balance_s -= seconds * self.limits.decode_share
        else:
            self._balance_s = 0.0

    def record_decode(
        self,
        sequences: Iterable[Sequence],
        *,
        model_id: ModelId,
        seconds: float,
        num_tokens: int | None = None,
    ) -> None:
        """Account for a decode step that produced this number of tokens (None: one for each sequence)."""
        members = list(sequences)
        rates = self._rates.setdefault(model_id, _Rates())
        rates.decode_step_s = rates.blend(rates.decode_step_s, seconds)
        per_token = seconds * len(members) / max(num_tokens or len(members), 1)
        rates.decode_token_s = rates.blend(rates.decode_token_s, per_token)
        self._charge(members, seconds)
        self._stall_s = 0.0
        if self._prefillable():
            self._balance_s += seconds * (1.0 - self.limits.decode_share)
        else:
            self._balance_s = 0.0

    def prefill_rate(self, model_id: ModelId) -> float:
        """Tokens per second of recent prefill chunks (0 when nothing was measured)."""
        rates = self._rates.get(model_id)
        return rates.prefill_tokens_per_s if rates else 0.0

    def decode_step_s(self, model_id: ModelId) -> float:
        """Seconds of recent decode steps (0 when nothing was measured)."""
        rates = self._rates.get(model_id)
        return rates.decode_step_s if rates else 0.0

    def decode_token_s(self, model_id: ModelId) -> float:
        """Seconds of recent decode steps for each token of a sequence: less than a step's where drafts were right."""
        rates = self._rates.get(model_id)
        return rates.decode_token_s if rates else 0.0

    def _charge(self, sequences: list[Sequence], seconds: float) -> None:
        for sequence in sequences:
            share = self._shares.get(_share_of(sequence))
            if share:
                share.used_s += seconds / len(sequences)

    def _charge_each(self, sequences: list[Sequence], seconds: float) -> None:
        """Charge the agents of these sequences in equal parts, however many each of them has."""
        self._charge(list({_share_of(sequence): sequence for sequence in sequences}.values()), seconds)

    # The decision.

    def decide(self, now: float) -> Step:
        """Return the next step at this clock reading (seconds)."""
        self._decided_at = now
        decoding = self.in_state(SequenceState.DECODING)
        if decoding and self._stall_s > self.limits.max_stall_s * (1 - MARGIN):
            return Decode(*self._next_batch(decoding))
        if decoding and self._chunk_is_due:
            unfinished = [s for s in self._prefillable() if s.num_to_prefill]
            if unfinished and self._balance_s >= 0.0:
                return self._next_chunk(unfinished, now, decoding=True)
            if unfinished:
                return Decode(*self._next_batch(decoding))
        candidate = self._next_admission(now)
        if candidate is not None:
            self._shares[_share_of(candidate)].served_at = now
            return Admit(candidate.sequence_id)
        prefillable = self._prefillable()
        if not decoding and not prefillable:
            return Idle()
        # While no sequence decodes, a first step that also computes the prompt's last tokens delays no other.
        joining = next(
            (s for s in prefillable if s.num_to_prefill <= (0 if decoding else s.max_joining)), None
        )
        if joining is not None:
            return Join(joining.sequence_id)
        if decoding and (not prefillable or self._balance_s < 0.0):
            return Decode(*self._next_batch(decoding))
        return self._next_chunk(prefillable, now, decoding=bool(decoding))

    def _next_chunk(self, prefillable: list[Sequence], now: float, *, decoding: bool) -> Prefill:
        sequence = self._next_prefill(prefillable, now)
        for one in (sequence, *self._followers_of(sequence)):
            share = self._shares[_share_of(one)]
            share.served_at = share.prefilled_at = now
        return Prefill(sequence.sequence_id, self._chunk(sequence, decoding=decoding))

    def _next_prefill(self, prefillable: list[Sequence], now: float) -> Sequence:
        ranks = {s.sequence_id: self._rank(s, now) for s in prefillable}
        first = min(prefillable, key=lambda s: ranks[s.sequence_id])
        best, is_new, *_ = ranks[first.sequence_id]
        if is_new:
            return first
        beside = [s for s in prefillable if ranks[s.sequence_id][:2] == (best, 1)]
        if not beside:
            self._returned_s = 0.0
        if self._returned_s <= 0.0:
            return first
        return min(beside, key=lambda s: ranks[s.sequence_id])

    def leader_of(self, sequence: Sequence) -> Sequence | None:
        """Return the sequence that is computing, or restoring, tokens this one needs next, if any."""
        return self._leader_among(self._computing(), sequence)

    def _computing(self) -> list[Sequence]:
        """Return the sequences that others may wait for."""
        return [s for s in self._sequences.values() if self._is_computing(s)]

    def _is_computing(self, sequence: Sequence) -> bool:
        return sequence.state is SequenceState.PREFILLING or sequence.sequence_id in self._held

    def _leader_among(self, computing: list[Sequence], sequence: Sequence) -> Sequence | None:
        for other in computing:
            if other is not sequence and self.computes_prefix_of(other, sequence):
                return other
        return None

    def computes_prefix_of(self, other: Sequence, sequence: Sequence) -> bool:
        """Return whether a sequence waits for `other`, which is being computed or restored."""
        return self._keeps_blocks(other) and computes_prefix_of(
            other, sequence, min_tokens=self.limits.min_shared_tokens
        )

    def _keeps_blocks(self, sequence: Sequence) -> bool:
        """Return whether its computed blocks are kept; without room or a copy, they are useless to others."""
        return sequence.num_cached - sequence.num_published < 2 * self.block_tokens

    def _still_follows(self, sequence: Sequence) -> bool:
        """Return whether the sequence still waits for the one recorded as its leader."""
        found = self._following.get(sequence.sequence_id)
        if found is None or sequence.sequence_id in self._blocked:
            return False
        leader = self._sequences.get(found[0])
        return (
            leader is not None
            and self._is_computing(leader)
            and self._keeps_blocks(leader)
            and waits_for(sequence, leader, shared=found[1], min_tokens=self.limits.min_shared_tokens)
        )

    def preemption_victim(self, *, sparing: SequenceId) -> Sequence | None:
        """Return the youngest running sequence other than `sparing`; background ones go first."""
        running = [
            s
            for s in self._sequences.values()
            if s.state in (SequenceState.PREFILLING, SequenceState.DECODING) and s.sequence_id != sparing
        ]
        return max(running, key=lambda s: (s.priority == "background", s.arrived_at), default=None)

    def _prefillable(self) -> list[Sequence]:
        return [s for s in self.in_state(SequenceState.PREFILLING) if s.sequence_id not in self._held]

    def _next_admission(self, now: float) -> Sequence | None:
        if self.num_running >= self.limits.max_batch_size:
            return None
        waiting = [
            s
            for s in self.in_state(SequenceState.WAITING)
            if s.sequence_id not in self._held and not self._still_follows(s)
        ]
        computing = self._computing() if waiting else []
        for sequence in sorted(waiting, key=lambda s: self._rank(s, now)):
            if sequence.sequence_id in self._blocked:
                return None
            leader = self._leader_among(computing, sequence)
            if leader is None:
                self._following.pop(sequence.sequence_id, None)
                return sequence
            self._following[sequence.sequence_id] = leader.sequence_id, shared_tokens(leader, sequence)
            self._followers.setdefault(leader.sequence_id, {})[sequence.sequence_id] = None
        return None

    def _followers_of(self, leader: Sequence) -> list[Sequence]:
        """Return the waiting sequences that were found to wait for this one, and still do."""
        min_tokens, found = self.limits.min_shared_tokens, []
        for sequence_id in self._followers.get(leader.sequence_id, ()):
            leader_id, shared = self._following.get(sequence_id, (None, 0))
            if leader_id == leader.sequence_id:
                follower = self._sequences[sequence_id]
                is_waiting = follower.state is SequenceState.WAITING
                if is_waiting and waits_for(follower, leader, shared=shared, min_tokens=min_tokens):
                    found.append(follower)
        return found

    def _rank(self, sequence: Sequence, now: float) -> _Rank:
        # Sequences that wait for this one must not wait behind those that it precedes.
        return min(self._own_rank(one, now) for one in (sequence, *self._followers_of(sequence)))

    def _own_rank(self, sequence: Sequence, now: float) -> _Rank:
        urgency = self._class(sequence, now)
        if _returns(sequence):
            # Its client has read a part of the answer: it waits behind none of its class that is still to begin.
            return (urgency, 0, 0.0, 0.0, sequence.arrived_at, sequence.sequence_id)
        share = self._shares[_share_of(sequence)]
        unserved = now - max(sequence.arrived_at, share.served_at)
        used = share.used_s - max(unserved - self.limits.aging_s, 0.0)
        return (urgency, 1, used, share.prefilled_at, sequence.arrived_at, sequence.sequence_id)

    def _class(self, sequence: Sequence, now: float) -> int:
        """Return 1 for a `background` sequence that has not waited for long, 0 for all others."""
        return int(sequence.priority == "background" and now - sequence.arrived_at < self.limits.aging_s)

    def _next_batch(self, decoding: list[Sequence]) -> tuple[ModelId, int]:
        batches = list(dict.fromkeys((s.model_id, s.group) for s in decoding))
        if self._last_decoded in batches:
            after = batches.index(self._last_decoded) + 1
            batches = batches[after:] + batches[:after]
        self._last_decoded = batches[0]
        return batches[0]

    def _chunk(self, sequence: Sequence, *, decoding: bool) -> int:
        company: Company = "decoding" if decoding else "alone" if len(self._sequences) == 1 else "waiting"
        limits = self.limits
        return chunk_tokens(
            sequence.num_cached,
            sequence.num_to_prefill,
            company=company,
            limits=ChunkLimits(limits.prefill_chunk, limits.min_chunk, limits.max_stall_s),
            rates=self._rates.get(sequence.model_id, _Rates()).chunks,
            traits=sequence.chunks,
            block_tokens=self.block_tokens,
        )


def _share_of(sequence: Sequence) -> str:
    return sequence.share or sequence.agent_id


def _returns(sequence: Sequence) -> bool:
    """Return whether the sequence was preempted in the middle of its answer."""
    return bool(sequence.output_ids) and sequence.state is not SequenceState.DECODING

"""Snapshots of layers that cannot be cut by position: where they are taken, and which of them go first.

```
prompt   system + tools | … history … | last message | generation prompt | answer
points                  S             M              N                                T
spacing  ...2048......4096......6144...
```
Templates rewrite what comes after `N` (they leave thinking out, write calls otherwise), clients what comes after `M`;
what is shared between conversations ends at `S`. A snapshot does not grow with its position, so that a long
conversation would keep more of them than blocks: what is over a share of the budget is thinned with age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from semanticd.domain.block import hash_block
from semanticd.domain.ids import BlockHash
from semanticd.domain.model_cache_spec import ModelCacheSpec

SNAPSHOT_TOKENS = 2048
"""Tokens of a prompt after which there is a snapshot, unless a setting says another number."""
MIN_DISTANCE = 16
"""Tokens between two snapshots, at least: computing fewer costs less than a snapshot."""
SHARE_OF_BUDGET = 1 / 4
"""Maximum share of the budget in RAM for all snapshots, while other blocks need room."""
SHARE_OF_CONVERSATION = 1 / 8
"""Maximum share of the budget for one conversation's snapshots, before old ones are dropped."""
RECENT_TURNS = 2
"""Turns whose snapshots are all kept."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of one conversation, by the number of tokens before it.

    `tail` holds the tokens since the last full block; None where the snapshot follows a full block. `at_boundary` says
    that it was taken between messages, and not because of the spacing alone.
    """

    position: int
    state: BlockHash
    tail: BlockHash | None = None
    num_bytes: int = 0
    """Bytes of the snapshot and its tail."""
    at_boundary: bool = True
    turn: int = 0
    """The agent's turn that took or used it last."""

    @property
    def names(self) -> tuple[BlockHash, ...]:
        """Names of its stored blocks, parent first."""
        return (self.state,) if self.tail is None else (self.tail, self.state)


@dataclass(frozen=True, slots=True)
class Stop:
    """End of a prompt chunk; `takes_snapshot` and `at_boundary` (see `Snapshot`) define what is kept there."""

    position: int
    takes_snapshot: bool = False
    at_boundary: bool = False


def next_stop(
    start: int, end: int, *, points: Sequence[int], spacing: int, last: int, num_prompt_tokens: int
) -> Stop:
    """Return where a chunk from `start` ends for a snapshot, at most at `end`.

    `points` are sorted; `last` is the position of the last snapshot. The last point is always taken, the others where
    they are `MIN_DISTANCE` from the snapshot before, and so is what `spacing` asks for (0: none), a multiple of the
    block size.
    """
    wanted = (p for p in points if p > start and (p - last >= MIN_DISTANCE or p == points[-1]))
    point = next(wanted, None)
    regular = (start // spacing + 1) * spacing if spacing else None
    if regular is not None and regular - last < MIN_DISTANCE:
        regular += spacing
    if regular is not None and regular > num_prompt_tokens - MIN_DISTANCE:
        regular = None
    if point is not None and point <= end and (regular is None or point <= regular):
        return Stop(point, takes_snapshot=True, at_boundary=True)
    if regular is not None and regular <= end:
        return Stop(regular, takes_snapshot=True)
    return Stop(end)


def still_on(
    snapshots: Iterable[Snapshot],
    *,
    spec: ModelCacheSpec,
    table: Sequence[BlockHash],
    root: BlockHash,
    token_ids: Sequence[int],
) -> list[Snapshot]:
    """Return those snapshots that belong to a conversation, given as its full blocks and all of its tokens."""
    found = []
    for snapshot in snapshots:
        num_full = snapshot.position // spec.block_tokens
        if num_full > len(table) or snapshot.position > len(token_ids):
            continue
        parent = table[num_full - 1] if num_full else root
        start, tail = num_full * spec.block_tokens, None
        if snapshot.position > start:
            tail = hash_block(
                fingerprint=spec.fingerprint,
                layout=spec.layout,
                parent=parent,
                token_ids=token_ids[start : snapshot.position],
            )
        if (snapshot.tail, snapshot.state) == (tail, state_name(spec, tail or parent)):
            found.append(snapshot)
    return found


def state_name(spec: ModelCacheSpec, parent: BlockHash) -> BlockHash:
    """Return the name of the snapshot that follows a block."""
    return hash_block(
        fingerprint=spec.fingerprint, layout=spec.layout, parent=parent, token_ids=(), kind="state"
    )


def merged(older: Iterable[Snapshot], newer: Iterable[Snapshot], *, turn: int) -> list[Snapshot]:
    """Return an agent's snapshots after a turn that took or used the `newer` ones, by position.

    One that was between messages stays that, also when a later turn only continued from it.
    """
    found = {one.position: one for one in older}
    for one in newer:
        known = found.get(one.position)
        at_boundary = one.at_boundary or (known is not None and known.at_boundary)
        found[one.position] = replace(one, turn=turn, at_boundary=at_boundary)
    return [found[position] for position in sorted(found)]


def thinned(snapshots: Sequence[Snapshot], *, end: int, turn: int, max_bytes: float) -> list[Snapshot]:
    """Return the snapshots to drop so that the others use at most `max_bytes`, as far as possible.

    The first one between messages stays, for it is what conversations share, and so do those between messages of the
    last `RECENT_TURNS` turns before `turn`. Of the others the ones go first whose absence makes the least difference,
    measured against their distance from `end`: what is left lies the closer together the younger it is.
    """
    kept = sorted(snapshots, key=lambda one: one.position)
    head = next((one for one in kept if one.at_boundary), None)
    excess = sum(one.num_bytes for one in kept) - max_bytes
    given_up: list[Snapshot] = []
    while excess > 0:
        places = [0, *(one.position for one in kept), end]
        free = [
            ((places[at + 2] - places[at]) / max(end - one.position, 1), at)
            for at, one in enumerate(kept)
            if one is not head and not (one.at_boundary and one.turn > turn - RECENT_TURNS)
        ]
        if not free:
            break
        given_up.append(kept.pop(min(free)[1]))
        excess -= given_up[-1].num_bytes
    return given_up

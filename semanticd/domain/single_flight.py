"""Single flight: a sequence waits for another one that computes the beginning of its prompt."""

from __future__ import annotations

from semanticd.domain.sequence import Sequence


def computes_prefix_of(other: Sequence, sequence: Sequence, *, min_tokens: int) -> bool:
    """Whether `other` is still to publish at least `min_tokens` tokens that `sequence` needs next.

    Costs the same however long the prompts are, where both have their chains: full blocks are compared by the last
    name, the rest by less than a block of tokens.
    """
    needed = max(other.num_resumable + min_tokens, sequence.num_published + 1)
    if other.model_id != sequence.model_id or needed > min(len(other.prompt_ids), len(sequence.prompt_ids)):
        return False
    start, chain, own = 0, other.chain, sequence.chain
    if chain is not None and own is not None:
        num_blocks = needed // chain.block_tokens
        if chain.root != own.root:
            return False
        if num_blocks and chain.hashes[num_blocks - 1] != own.hashes[num_blocks - 1]:
            return False
        start = num_blocks * chain.block_tokens
    return other.prompt_ids[start:needed] == sequence.prompt_ids[start:needed]

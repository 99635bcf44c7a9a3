"""Single flight: a sequence waits for another one that computes the beginning of its prompt."""

from __future__ import annotations

from semanticd.domain.prefix_index import common_prefix_length
from semanticd.domain.sequence import Sequence


def shared_tokens(left: Sequence, right: Sequence) -> int:
    """Return how many leading tokens two prompts share; 0 for prompts of different models.

    Where both have their chains it costs little more for long prompts than for short ones: full blocks are compared by
    name, which says that all before are equal too, and less than a block of tokens one by one.
    """
    if left.model_id != right.model_id:
        return 0
    a, b = left.chain, right.chain
    if a is None or b is None:
        return common_prefix_length(left.prompt_ids, right.prompt_ids)
    if a.root != b.root:
        return 0
    low, high = 0, min(len(a.hashes), len(b.hashes))
    while low < high:
        middle = (low + high + 1) // 2
        if a.hashes[middle - 1] == b.hashes[middle - 1]:
            low = middle
        else:
            high = middle - 1
    start = low * a.block_tokens
    end = start + a.block_tokens
    return start + common_prefix_length(left.prompt_ids[start:end], right.prompt_ids[start:end])


def waits_for(sequence: Sequence, other: Sequence, *, shared: int, min_tokens: int) -> bool:
    """Return whether `other` has yet to compute at least `min_tokens` of the `shared` tokens for `sequence`."""
    return shared - other.num_resumable >= min_tokens and shared > sequence.num_published


def computes_prefix_of(other: Sequence, sequence: Sequence, *, min_tokens: int) -> bool:
    """Return whether `other` has yet to publish at least `min_tokens` tokens that `sequence` needs next."""
    return waits_for(sequence, other, shared=shared_tokens(other, sequence), min_tokens=min_tokens)

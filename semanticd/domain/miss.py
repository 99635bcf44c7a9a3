"""Finds the position and the cause of a cache miss, in words that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from semanticd.domain.block import LostFile
from semanticd.domain.generation import CacheMiss, MissCause
from semanticd.domain.prefix_index import common_prefix_length
from semanticd.domain.snapshots import MIN_DISTANCE

_CONTEXT_TOKENS = 12
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}:\d\d|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b|\b20\d\d\b")

_SMALL_SHARE = 5
"""Maximum share of a prompt (a fifth) that its last block may have without a miss being explained."""
_LOST: dict[LostFile, MissCause] = {
    "missing": "files_missing",
    "damaged": "files_damaged",
    "pruned": "evicted",
}

_TEMPLATE_TOKENS = 48
"""Tokens that a chat template may put before a client's text: its opening and a system text of its own."""

_MARKER_TOKENS = 12
"""Tokens that a marker of thinking takes at most."""
_THOUGHT = re.compile(
    r"(?:<think(?:ing)?>|<\|channel\|>analysis<\|message\|>|\[THINK\]|<seed:think>|<\|START_THINKING\|>)\s*[^\s<]"
)


def explain_miss(
    prompt_ids: Sequence[int],
    *,
    previous_ids: Sequence[int] | None,
    num_matched: int,
    num_known: int | None = None,
    lost_file: LostFile | None = None,
    block_tokens: int = 0,
    decode: Callable[[Sequence[int]], str],
    system_tokens: int = 0,
    same_model: bool = True,
    peer_failed: bool = False,
    is_from_before: bool = False,
) -> CacheMiss | None:
    """Return why `prompt_ids` were not cached beyond `num_matched`; None when only new tokens were computed.

    `previous_ids` are the agent's last transcript; the first `system_tokens` tokens are system text and tools.
    `num_known` (None: as many as matched) counts the tokens whose blocks are there, although layers that cannot be cut
    resume at the last snapshot before them only. `lost_file` is the loss of a file of the blocks beyond the match,
    if there was one. Where the prompt was edited in its last `block_tokens` tokens, and these are a fifth of
    it at most, nothing is named: a block is the least that is computed. A first request that found no more than a
    template's own tokens found nothing. `same_model` is False where that transcript was computed by other weights, or
    with another tokenizer or template. `peer_failed` says that a peer did not bring what it has of the prompt beyond
    the match. `is_from_before` says that `previous_ids` were computed before this daemon started: it does not know what
    happened to their blocks until then.
    """
    num_known = num_matched if num_known is None else num_known
    if num_matched >= len(prompt_ids) - 1:
        return None
    if peer_failed:
        return CacheMiss(num_matched, "peer_failed", "", _around(prompt_ids, num_matched, decode))
    if previous_ids is None:
        if num_matched > _TEMPLATE_TOKENS:
            return None
        return CacheMiss(num_matched, "first_request", "", _around(prompt_ids, num_matched, decode))
    if not same_model:
        return CacheMiss(num_matched, "model_changed", "", _around(prompt_ids, num_matched, decode))
    shared = common_prefix_length(tuple(previous_ids), tuple(prompt_ids))
    cuts_short = num_known > num_matched
    gone: MissCause = "gone_before_start" if is_from_before else "evicted"
    lost: MissCause = _LOST[lost_file] if lost_file else "no_snapshot" if cuts_short else gone
    is_near = 0 <= shared - num_matched <= min(MIN_DISTANCE, block_tokens)
    if is_near or (cuts_short and shared - num_matched <= MIN_DISTANCE):
        # As close as snapshots lie, and less than a person would look for: what made the prompt part from the earlier
        # one is what matters.
        num_matched = shared
    if num_matched > shared:
        # Another conversation's beginning was found, longer than what this one shares with its own last prompt.
        return None
    if shared >= len(previous_ids) or shared >= len(prompt_ids) - 1:
        if num_matched + 1 >= min(shared, len(prompt_ids)):
            return None
        return CacheMiss(num_matched, lost, _around(previous_ids, num_matched, decode), "")
    if num_matched + 1 < shared:
        # Show the common text at the miss; the two diverge at a later position.
        return CacheMiss(num_matched, lost, _around(previous_ids, num_matched, decode), "")
    expected, found = _around(previous_ids, shared, decode), _around(prompt_ids, shared, decode)
    num_left = len(prompt_ids) - num_matched
    if num_left <= block_tokens and num_left * _SMALL_SHARE <= len(prompt_ids):
        return None
    cause = _cause(shared, system_tokens, expected, found)
    if cause == "history_changed" and _dropped_thinking(previous_ids, prompt_ids, shared, decode):
        cause = "thinking_dropped"
    if cause == "tools_changed" and _same_tokens(previous_ids, prompt_ids, system_tokens):
        cause = "tools_reordered"
    return CacheMiss(shared, cause, expected, found)


def _around(token_ids: Sequence[int], position: int, decode: Callable[[Sequence[int]], str]) -> str:
    return decode(token_ids[max(position - _CONTEXT_TOKENS, 0) : position + _CONTEXT_TOKENS])


def _dropped_thinking(
    previous_ids: Sequence[int],
    prompt_ids: Sequence[int],
    position: int,
    decode: Callable[[Sequence[int]], str],
) -> bool:
    """Return whether the prompts diverge at the earlier one's thinking, which templates drop from past turns."""
    around = slice(max(position - _MARKER_TOKENS, 0), position + _MARKER_TOKENS)
    # An empty thought in its place is none.
    return bool(_THOUGHT.search(decode(previous_ids[around]))) and not _THOUGHT.search(
        decode(prompt_ids[around])
    )


def _same_tokens(left: Sequence[int], right: Sequence[int], num_tokens: int) -> bool:
    """Return whether two beginnings hold the same tokens in another order."""
    return sorted(left[:num_tokens]) == sorted(right[:num_tokens])


def _cause(position: int, system_tokens: int, expected: str, found: str) -> MissCause:
    if _DATE.search(expected) and _DATE.search(found):
        return "date_changed"
    if position < system_tokens:
        return (
            "tools_changed"
            if '"parameters"' in expected + found or '"name"' in expected + found
            else "system_changed"
        )
    return "history_changed"

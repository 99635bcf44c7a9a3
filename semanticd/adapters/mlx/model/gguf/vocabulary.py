"""A GGUF file's vocabulary as a `tokenizer.json`, with its chat template.

Two kinds are converted: byte-level BPE (`gpt2`), whose file lists its merges and names the pattern that splits words,
and SentencePiece's BPE (`llama`), whose merges follow from the scores: of all ways to put a piece together from two
others, in the order of the pieces' scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from semanticd.domain.errors import ModelLoadError

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "▁"

_GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
    r"%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASES % ("", "", r"\p{N}")
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = _CASES % (_SUFFIX, _SUFFIX, r"\p{N}{1,3}")

# By `tokenizer.ggml.pre`: the pattern that splits text before BPE, and related options.
_PLAIN: dict[str, Any] = {}
_WHOLE_WORDS = {"ignore_merges": True}
_PRE: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm": (_GPT2, {"single_digits": True}),
    "gpt-2": (_GPT2, _PLAIN),
    "default": (_GPT2, _PLAIN),
    "llama-bpe": (_LLAMA3, _WHOLE_WORDS),
    "llama3": (_LLAMA3, _WHOLE_WORDS),
    "llama-v3": (_LLAMA3, _WHOLE_WORDS),
    "smaug-bpe": (_LLAMA3, _WHOLE_WORDS),
    "smollm3": (_LLAMA3, _WHOLE_WORDS),
    "dbrx": (_LLAMA3, _PLAIN),
    "qwen2": (_QWEN2, {"composed": True}),
    "deepseek-r1-qwen": (_QWEN2, {"composed": True}),
    "tekken": (_TEKKEN, _WHOLE_WORDS),
    "gpt-4o": (_GPT4O, _PLAIN),
}


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer.

    Raises:
        ModelLoadError: The tokenizer cannot be converted; the message has the reason.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens") or []
    types = list(metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens))
    if kind == "gpt2":
        tokenizer = _byte_level(metadata, tokens)
        add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", False))
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata, tokens, types)
        add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", True))
    else:
        raise ModelLoadError(f"its tokenizer is of the kind {kind!r}; `gpt2` and `llama` are converted")
    special = [t for t, k in zip(tokens, types, strict=True) if k in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    added = [t for t, k in zip(tokens, types, strict=True) if k == _USER and _SPACE not in t]
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])
    bos = token_of(metadata, "bos")
    if add_bos and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokens.index(bos))]
        )
    return tokenizer


def token_of(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return the token that a file names as its `bos`, `eos`, `padding`, `unknown`, ...; None without one."""
    index = metadata.get(f"tokenizer.ggml.{name}_token_id")
    tokens: Sequence[str] = metadata.get("tokenizer.ggml.tokens") or []
    return tokens[int(index)] if index is not None and 0 <= int(index) < len(tokens) else None


def described(metadata: Mapping[str, Any], *, context_length: int) -> dict[str, Any]:
    """Return what `tokenizer_config.json` says."""
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token_of(metadata, "bos"),
        "eos_token": token_of(metadata, "eos"),
        "pad_token": token_of(metadata, "padding"),
        "unk_token": token_of(metadata, "unknown"),
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
    return {key: value for key, value in facts.items() if value is not None}


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    if pre not in _PRE:
        raise ModelLoadError(
            f"its tokenizer splits words in the way {pre!r}; known are {', '.join(sorted(_PRE))}"
        )
    pattern, more = _PRE[pre]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges") or []]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=more.get("ignore_merges", False))
    )
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if more.get("single_digits") else []
    steps += [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if more.get("composed"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    scores: Sequence[float] = metadata.get("tokenizer.ggml.scores") or []
    if len(scores) != len(tokens):
        raise ModelLoadError("its tokenizer has no scores, from which its merges would follow")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    has_bytes = _BYTE in types
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(tokens, types, scores),
            unk_token=token_of(metadata, "unknown"),
            fuse_unk=True,
            byte_fallback=has_bytes,
        )
    )
    prefixed = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=_SPACE, prepend_scheme="first" if prefixed else "never", split=False
    )
    ends: list[Any] = [decoders.Strip(" ", 1, 0)] if prefixed else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return tokenizer


def _merges(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return the merges in the order in which SentencePiece would make them; runs of spaces come first."""
    rank: dict[str, float] = {}
    ids: dict[str, int] = {}
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == _NORMAL or (kind == _USER and _SPACE in token):
            ids[token] = index
            rank[token] = -scores[index] if kind == _NORMAL else -math.inf
        elif len(token) == 1:
            ids[token] = index
    found = []
    for token, order in rank.items():
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                found.append((order, len(token) if order == -math.inf else 0, left, right))
    found.sort()
    return [(tokens[left], tokens[right]) for _, _, left, right in found]

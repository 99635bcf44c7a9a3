"""Writes a tokenizer's file for the grammar engine, so that it spells the text of control tokens with ordinary ones.

Text that a form leaves no choice about is tokenized as a whole by the engine, and the tokenizer finds control tokens in
it: a value `a <|im_end|> b` of an enum became the control token, which ends the turn. The engine knows control tokens
by their ids alone, so their names are replaced by names that stand in no text.
"""

from __future__ import annotations

import json
import secrets
from typing import Any


def with_nameless_tokens(tokenizer: str) -> str:
    """Return the content of a `tokenizer.json` with other names of its control tokens; ids and all else stay.

    Control tokens are what the engine takes for such: special tokens, and added ones of the form `<…>`.
    """
    content = json.loads(tokenizer)
    unguessed = secrets.token_hex(8)
    names: dict[str, str] = {}
    for token in content.get("added_tokens") or ():
        name = token["content"]
        if token["special"] or (name.startswith("<") and name.endswith(">")):
            names[name] = token["content"] = f"<{unguessed} {token['id']}>"
            token["special"] = True
    _rename(content["model"], names)
    return json.dumps(content, ensure_ascii=False)


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens that the model's own vocabulary has too: by their names there they keep their ids."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        known = names.keys() & vocab.keys()
        vocab.update({names[token]: vocab.pop(token) for token in known})
    else:
        known = names.keys() & {token for token, _ in vocab}
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if known and "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _merged(merge) not in known]
    if model.get("unk_token") in known:
        model["unk_token"] = names[model["unk_token"]]


def _merged(merge: str | list[str]) -> str:
    """Return the token that a merge makes; older files write its two parts as one text."""
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)

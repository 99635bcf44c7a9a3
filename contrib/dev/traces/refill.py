"""Take all text out of traces: `python contrib/dev/traces/refill.py --tokenizer FOLDER --output FOLDER TRACE…`.

Every text becomes filler of as many tokens, chosen word by word from a seed and all of the text before: equal texts
stay equal, and texts with a common beginning keep one of as many tokens. Names of tools and their arguments become
other names. What is left is the dialects' own: fields, types, roles, numbers. Written packed (`NAME.trace.jsonl.xz`),
with random ids.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SEED = b"traces-1"
FILLER = [
    "the",
    "and",
    "of",
    "to",
    "in",
    "is",
    "that",
    "it",
    "for",
    "was",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
    "all",
    "were",
    "when",
    "we",
]
"""Words that are one token each, with a space before, in SmolLM2's tokenizer and in the tests' tiny one."""
KEPT = frozenset(
    [
        "role",
        "type",
        "model",
        "effort",
        "status",
        "format",
        "object",
        "media_type",
        "ttl",
        "keep",
        "verbosity",
        "service_tier",
        "truncation",
        "include",
        "summary",
        "syntax",
        "$schema",
        "reasoning",
    ]
)
"""Fields whose texts are the dialect's words."""
DROPPED = frozenset(["pattern", "client_metadata", "encrypted_content", "$comment", "safety_identifier"])
SCHEMAS = frozenset(["input_schema", "parameters", "schema"])
HEADERS = frozenset(["content-type", "anthropic-version"])
BILLING = re.compile(r"(x-anthropic-billing-header):((?:\s*[\w.-]+=[^;\s]*;)+)")
ID = re.compile(r"(toolu|call|msg|fc|resp|chatcmpl)_[0-9A-Za-z-]+")


class Refill:
    """Replaces texts; one for all traces, so that equal names stay equal."""

    def __init__(self, tokenizer: Any, seed: bytes = SEED) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._texts: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def text(self, text: str) -> str:
        """Return filler of as many tokens."""
        if text not in self._texts:
            billing = BILLING.match(text)
            self._texts[text] = self._billing(billing) if billing else "".join(self._words(text))
        return self._texts[text]

    def _billing(self, found: re.Match[str]) -> str:
        values = [part.partition("=") for part in found[2].split(";") if part.strip()]
        return f"{found[1]}:" + "".join(
            f" {FILLER[index]}={self.id(value[2])[:8]};" for index, value in enumerate(values)
        )

    def _words(self, text: str) -> Iterator[str]:
        chain = hashlib.blake2b(self._seed, digest_size=8).digest()
        for token in self._tokenizer.encode(text, add_special_tokens=False).ids:
            chain = hashlib.blake2b(chain + token.to_bytes(4, "little"), digest_size=8).digest()
            yield f" {FILLER[chain[0] % len(FILLER)]}"

    def id(self, value: str) -> str:
        """Return random letters of hexadecimal for an id, the same for the same."""
        return hashlib.blake2b(self._seed + value.encode(), digest_size=12).hexdigest()

    def name(self, name: str) -> str:
        """Return another name of as many tokens where one is found, and of its own."""
        if not name:
            return name
        if name not in self._names:
            length = self._length(name)
            made = next(
                made
                for made in self._candidates(name)
                if made not in self._taken and (self._length(made) == length or made.endswith("__"))
            )
            self._taken.add(made)
            self._names[name] = made
        return self._names[name]

    def _candidates(self, name: str) -> Iterator[str]:
        for tail in ("", "__"):
            for number in range(400):
                digest = hashlib.blake2b(self._seed + f"{name}/{number}".encode(), digest_size=8).digest()
                yield "_".join(FILLER[byte % len(FILLER)] for byte in digest[: 1 + number % 6]) + tail

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def value(self, value: Any, field: str = "") -> Any:
        """Return a body's value with its texts replaced."""
        if isinstance(value, str):
            return self._string(value, field)
        if isinstance(value, list):
            return [self.value(one, field if field in KEPT else "") for one in value]
        if not isinstance(value, dict):
            return value
        if field in SCHEMAS:
            return self._schema(value)
        if field == "input":
            return self._arguments(value)
        if value.get("type") == "grammar":
            return {"type": "grammar", "syntax": "regex", "definition": ".+"}
        return {name: self.value(one, name) for name, one in value.items() if name not in DROPPED}

    def _string(self, value: str, field: str) -> str:
        if field in KEPT or field == "tool_choice":
            return value
        if field == "user_id" or field.endswith("_key"):
            return self.id(value)
        if field == "id" or field.endswith("_id"):
            # Those of the scripted server carry no information.
            known = ID.fullmatch(value)
            return f"{known[1]}_{self.id(value)}" if known else self.id(value)
        if field == "name":
            return self.name(value)
        if field == "namespace":
            return self.name(value)
        if field == "arguments":
            return json.dumps(self._arguments(json.loads(value)))
        return self.text(value)

    def _arguments(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.name(name): self._arguments(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._arguments(one) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def _schema(self, value: Any, field: str = "") -> Any:
        if isinstance(value, list):
            return [self._schema(one, field) for one in value]
        if isinstance(value, str):
            if field in ("required", "enum", "const"):
                return self.name(value)
            return value if field in ("type", "format", "$schema") else self.text(value)
        if not isinstance(value, Mapping):
            return value
        if field in ("properties", "$defs", "definitions", "patternProperties"):
            return {self.name(name): self._schema(one) for name, one in value.items()}
        return {name: self._schema(one, name) for name, one in value.items() if name not in DROPPED}

    def row(self, row: Mapping[str, Any], began: float) -> dict[str, Any]:
        """Return one request without its texts."""
        headers = {name: value for name, value in row["headers"].items() if name in HEADERS}
        headers |= {name: self.id(value) for name, value in row["headers"].items() if name.endswith("-id")}
        body = self.value(row["body"])
        return {
            "at": round(float(row["at"]) - began, 2),
            "dialect": row["dialect"],
            "path": row["path"],
            "headers": headers,
            "body": {**body, "model": "default"},
            "answer": {"status": row["answer"]["status"]},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder with a tokenizer.json, SmolLM2's"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for NAME.trace.jsonl.xz")
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="what record.py wrote")
    options = parser.parse_args()
    from tokenizers import Tokenizer

    refill = Refill(Tokenizer.from_file(str(options.tokenizer / "tokenizer.json")))
    for path in options.traces:
        head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        made = [{"trace": head["trace"], "server": "scripted", "began_at": 0, "content": "filler"}]
        made += [refill.row(row, float(head["began_at"])) for row in rows]
        text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in made)
        target = options.output / f"{path.name.split('.')[0]}.trace.jsonl.xz"
        target.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
        sys.stderr.write(
            f"{target}: {len(rows)} requests, {len(text)} bytes, {target.stat().st_size} packed\n"
        )


if __name__ == "__main__":
    main()

"""Write docs/json-schema.md from the table: `python contrib/dev/generators/schema_docs.py`. A test compares."""

from __future__ import annotations

import argparse
from pathlib import Path

from semanticd.adapters.mlx.constraints.schema_words import FORMATS, WORDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "json-schema.md"

HEAD = """# JSON Schema

Structured output and strict tools are enforced during sampling. Each keyword of JSON Schema (2020-12) is one of:

- **enforced**: no answer violates it;
- **approximated**: a weaker form is enforced;
- **left out**: the rest of the schema is enforced without it;
- **annotation**: it does not constrain answers.

The response header `X-Semantic-Adjusted` and the log list the keywords of a request's schemas that were approximated or
left out (`not_enforced=uniqueItems,pattern`). With `SEMANTIC_SERVER_STRICT=true` such a schema is refused with
400 instead. Keywords that are not part of JSON Schema are ignored. Schemas that no value can satisfy, unknown types and
references to other documents are always refused.

This page is generated from the code by `python contrib/dev/generators/schema_docs.py`; a test checks every row.

| keyword | support | note |
|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    rows = "".join(f"| `{word}` | {support} | {note} |\n" for word, (support, note) in WORDS.items())
    known = ", ".join(f"`{name}`" for name in FORMATS)
    return f"{HEAD}{rows}\n## String formats\n\n{known}.\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")

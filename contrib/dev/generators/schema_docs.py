"""Write docs/json-schema.md from the table: `python contrib/dev/generators/schema_docs.py`. A test compares."""

from __future__ import annotations

import argparse
from pathlib import Path

from semanticd.adapters.mlx.constraints.schema_words import FORMATS, WORDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "json-schema.md"

HEAD = """# JSON Schema

Structured output and strict tools are enforced while tokens are sampled. A word of JSON Schema (2020-12) is one of:

- **enforced**: no answer breaks it;
- **approximated**: enforced in a weaker form;
- **left out**: the rest of the schema is enforced without it;
- **annotation**: it asks nothing of an answer, and nothing is done.

What was approximated or left out of a request's schemas is said in the answer's header `X-Semantic-Adjusted`
(`not_enforced=uniqueItems,pattern`) and in the log. With `SEMANTIC_SERVER_STRICT=true` such a schema is refused with
400 instead. Words that JSON Schema does not know are ignored. Schemas that no value fits, unknown types and references
to other documents are always refused.

This page is made from the code by `python contrib/dev/generators/schema_docs.py`; a test tries every row.

| word | support | note |
|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    rows = "".join(f"| `{word}` | {support} | {note} |\n" for word, (support, note) in WORDS.items())
    known = ", ".join(f"`{name}`" for name in FORMATS)
    return f"{HEAD}{rows}\n## Formats of strings\n\n{known}.\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")

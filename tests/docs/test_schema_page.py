"""The page on JSON Schema says what the table says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_on_json_schema_is_made_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location(
        "schema_docs", ROOT / "contrib/dev/generators/schema_docs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs/json-schema.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `python contrib/dev/generators/schema_docs.py`"

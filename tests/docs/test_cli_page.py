"""The page on commands says what the program does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_on_commands_is_made_from_the_program() -> None:
    spec = importlib.util.spec_from_file_location("cli_docs", ROOT / "contrib/dev/generators/cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `python contrib/dev/generators/cli_docs.py`"

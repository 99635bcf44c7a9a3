"""Write docs/limits.md from the table of limits: `python contrib/dev/generators/limits_docs.py`. A test compares."""

from __future__ import annotations

import argparse
import ast
from dataclasses import fields
from pathlib import Path

from semanticd.domain import limits
from semanticd.domain.limits import LIMITS, Limits

PAGE = Path(__file__).resolve().parents[3] / "docs" / "limits.md"

HEAD = """# Limits

Limits on the number, size and duration of requests and connections. A request that exceeds a limit is refused with a
message that names the limit (400, or 413 for a body, 408 for a slow one, 431 for headers), or the connection is closed
and counted in `semanticd_http_connections_dropped_total`. A request takes a queue place (`SEMANTIC_MLX_MAX_QUEUE`,
`SEMANTIC_MLX_MAX_QUEUE_PER_AGENT`) before its prompt is rendered or tokenized. The limits are defined in
`semanticd/domain/limits.py`.

This page is generated from the code by `python contrib/dev/generators/limits_docs.py`.

| limit | value | meaning |
|---|---|---|
"""

_UNITS = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024), ("bytes", 1))


def page() -> str:
    """Return the whole page."""
    meanings = _meanings()
    rows = [
        f"| `{one.name}` | {_shown(one.name, getattr(LIMITS, one.name))} | {meanings[one.name]} |"
        for one in fields(Limits)
    ]
    return HEAD + "\n".join(rows) + "\n"


def _meanings() -> dict[str, str]:
    """Return what is written below each field."""
    tree = ast.parse(Path(limits.__file__).read_text(encoding="utf-8"))
    table = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for field, text in zip(table.body, table.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _shown(name: str, value: float) -> str:
    if name.endswith("_s"):
        return f"{value:g} s"
    if name.endswith("_bytes"):
        return next(f"{value / size:g} {unit}" for unit, size in _UNITS if value >= size)
    return f"{value:,}"


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

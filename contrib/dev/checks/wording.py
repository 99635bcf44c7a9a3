"""Find turns of phrase that readers stumbled on in what users read: `python contrib/dev/checks/wording.py`.

Looks at the pages under `docs/`, README.md and CHANGELOG.md outside of code blocks and code spans, and at the string
literals of both packages outside of docstrings: help texts, settings, messages, log events. Prints one line a finding,
with the plainer words; exits 1 if there is any. A use that is right is named in `ALLOWED`, with the text around it.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

PATTERNS = {
    r"\b(told|tells?)\b": "report, show, pass, emit",
    r"\bnobody\b": "no client, no agent, none",
    r"\bdeeds?\b": "action",
    r"\bbeside\b": "alongside, next to, in addition to",
    r"\b(whoever|whosoever)\b": "a client that, the program that",
    r"\b(?:go|goes|went) on\b": "continue, resume",
    r"\banew\b": "again, from scratch",
    r"(?<!\bthere )\b(?:is|are) no (?!longer\b|more\b)\w": "is not a",
    r"\bbecame of\b": "happened to",
    r"\b(?:every|some|any)body\b": "any client, another agent, every user",
    r"(?<!\bthere )\b(?:is|are) none\b": "is not a, there is no",
    r"\bcalled so\b": "has this name",
    r"\bneed be\b": "necessary",
    r"\banyhow\b": "anyway, all the same",
    r"\b(?:least|most) \w+ that\b": "minimum, maximum",
    r"\btaken up\b": "resumed",
    r"\bthose of here\b": "these",
    r"\bbut for\b": "except, except for",
    r"\b(?:makes?|made) way\b": "is displaced, is evicted",
    r"\bfor (?:good|ever)\b": "permanently, forever",
    r"\bgiv(?:es?|en) back\b": "return, free, release",
    r"\btak(?:es?|en) along\b": "with it, too",
    r"\bnot said\b": "not documented, not reported",
    r"\bin vain\b": "without effect",
    r"\bleft alone\b": "not used, ignored, unchanged",
    r"\bwho asks\b": "the client",
    r"\bno word\b": "no response",
}
"""Regular expressions, and words to use instead."""

ALLOWED: tuple[str, ...] = ()
"""Texts around uses that are right."""

_SPANS = re.compile(r"`[^`]*`|<!--.*?-->|\]\([^)]*\)", re.DOTALL)


def pages(root: Path) -> Iterator[tuple[str, int, str]]:
    """Yield file, line number and text of each line of prose."""
    for path in [*sorted((root / "docs").rglob("*.md")), root / "README.md", root / "CHANGELOG.md"]:
        in_code = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.lstrip().startswith("```"):
                in_code = not in_code
            elif not in_code:
                yield str(path.relative_to(root)), number, _SPANS.sub(" ", line)


def messages(root: Path) -> Iterator[tuple[str, int, str]]:
    """Yield file, line number and text of each string literal that is not a docstring."""
    for package in ("semanticd", "semantic_tui"):
        for path in sorted((root / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            docstrings = {
                id(statement.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                for statement in node.body
                if isinstance(statement, ast.Expr)
            }
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in docstrings
                ):
                    yield str(path.relative_to(root)), node.lineno, " ".join(node.value.split())


def findings(root: Path) -> Iterator[str]:
    """Yield one line for each use that is not allowed."""
    for file, number, text in (*pages(root), *messages(root)):
        for pattern, better in PATTERNS.items():
            for found in re.finditer(pattern, text, re.IGNORECASE):
                around = text[max(0, found.start() - 40) : found.end() + 40]
                if not any(allowed in around for allowed in ALLOWED):
                    yield f"{file}:{number}: '{around.strip()}' (better: {better})"


def main() -> int:
    """Print the findings; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the repository's folder")
    found = list(findings(parser.parse_args().root))
    print("\n".join(found) if found else "wording: no findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

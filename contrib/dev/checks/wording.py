"""Find turns of phrase that readers stumbled on in what users read: `python contrib/dev/checks/wording.py`.

Looks at the pages under `docs/`, README.md and CHANGELOG.md outside of code blocks and code spans, and at the packages:
string literals (help texts, settings, messages, log events), docstrings and descriptions of fields. No sentence of a
description or a comment may begin with a relative clause without a noun ("What is left of it"). Prints one line a
finding, with the plainer words; exits 1 if there is any. A use that is right is named in `ALLOWED`, with the text
around it.
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

CLAUSE = r"(?:\A|[.:;] )(?:What|Whatever|Who|Whoever|Whom)\b"
"""Beginning of a sentence that has no noun; case-sensitive, like the next one."""
FIRST_CLAUSE = r"\A(?:Where|Wherever|When|Why|How|Which|Whose|Those|That|Whether what)\b"
"""Beginning of a description that has no noun; later sentences may begin with a condition."""
_NOUN = "a noun with its unit, or a verb"

ALLOWED: tuple[str, ...] = ()
"""Texts around uses that are right."""

_ANY = re.compile("|".join(PATTERNS), re.IGNORECASE)
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


def literals(root: Path) -> Iterator[tuple[str, int, str, bool]]:
    """Yield file, line number and text of each string literal, and whether it is a description: it stands alone."""
    for file, source in modules(root):
        tree = ast.parse(source)
        descriptions = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield file, node.lineno, " ".join(node.value.split()), id(node) in descriptions


def comments(root: Path) -> Iterator[tuple[str, int, str]]:
    """Yield file, line number and text of each comment that has a line of its own."""
    for file, source in modules(root):
        for number, line in enumerate(source.splitlines(), 1):
            text = line.lstrip()
            if text.startswith("#"):
                yield file, number, text.lstrip("#: ")


def modules(root: Path) -> Iterator[tuple[str, str]]:
    """Yield file and source of each module of both packages."""
    for package in ("semanticd", "semantic_tui"):
        for path in sorted((root / package).rglob("*.py")):
            yield str(path.relative_to(root)), path.read_text()


def findings(root: Path) -> Iterator[str]:
    """Yield one line for each use that is not allowed."""
    for file, number, text in pages(root):
        yield from _phrases(file, number, text)
    for file, number, text, is_description in literals(root):
        if is_description:
            prose = _SPANS.sub("`…`", text)
            yield from _clauses(file, number, prose, rf"{FIRST_CLAUSE}|{CLAUSE}")
            # Python's None is a value, not a turn of phrase.
            yield from _phrases(file, number, re.sub(r"\bNone\b", "`…`", prose))
        else:
            yield from _phrases(file, number, text)
    for file, number, text in comments(root):
        yield from _clauses(file, number, text, CLAUSE)


def _phrases(file: str, number: int, text: str) -> Iterator[str]:
    if not _ANY.search(text):
        return
    for pattern, better in PATTERNS.items():
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield from _unless_allowed(file, number, text, found, better)


def _clauses(file: str, number: int, text: str, pattern: str) -> Iterator[str]:
    for found in re.finditer(pattern, text):
        yield from _unless_allowed(file, number, text, found, _NOUN)


def _unless_allowed(file: str, number: int, text: str, found: re.Match[str], better: str) -> Iterator[str]:
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

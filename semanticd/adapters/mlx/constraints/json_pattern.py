"""Writes a regular expression as a rule that describes text as it stands inside a JSON string.

There a quotation mark, a backslash and a control character are two or more characters that begin with a backslash. The
grammar engine's lexer ends a lexeme at the first character that cannot continue it, and never goes back. So a lexeme
must not be ended by a backslash that it could have continued with: text without such characters and each escaped
character become lexemes of their own, and repetition and choice between them are left to the grammar's rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from semanticd.adapters.mlx.constraints.pattern_tree import (
    ESCAPED,
    NUM_ASCII,
    Chain,
    Characters,
    Choice,
    Node,
    Repeat,
    UntranslatableError,
)

_PLAIN_OF_CLASS = '[^"\\\\\\x00-\\x1f]'
_SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", '"': '"', "\\": "\\"}


class _UnclearBoundaryError(Exception):
    """The next character does not decide where one lexeme ends and the next begins."""


def as_rule(node: Node) -> str:
    """Return an expression of a Lark rule that describes a node's texts as they stand inside a JSON string.

    Text that needs no escapes is one lexeme as far as it goes; where the next one could not be distinguished from it,
    each character is one, which takes the lexer longer.
    """
    try:
        return _in_runs(node)
    except _UnclearBoundaryError:
        return _by_character(node)


def as_ignored(node: Node) -> list[str]:
    """Return the patterns of what may stand between any two lexemes: a repeated set of characters, or plain text."""
    if is_plain(node):
        return [f"/{_pattern(node)}/"]
    inner = node.node if isinstance(node, Repeat) and node.least <= 1 and node.most is None else node
    if not isinstance(inner, Characters):
        raise UntranslatableError("%ignore of more than one kind of character, some of which JSON escapes")
    plain, escapes = _plain_of(inner), _escapes_of(inner)
    return [f"/{one}/" for one in ([f"{plain}+"] if plain else []) + ([escapes] if escapes else [])]


def is_plain(node: Node) -> bool:
    """Return whether no text of a node contains a character that JSON escapes."""
    if isinstance(node, Characters):
        return not node.members & ESCAPED
    return all(map(is_plain, _children(node)))


def _children(node: Node) -> Sequence[Node]:
    if isinstance(node, Chain):
        return node.parts
    if isinstance(node, Choice):
        return node.options
    return (node.node,) if isinstance(node, Repeat) else ()


def _in_runs(node: Node) -> str:
    node = _united(node)
    if is_plain(node):
        pattern = _pattern(node)
        return f"/{pattern}/" if pattern else '""'
    if isinstance(node, Characters):
        return _one_of(_plain_of(node), _escapes_of(node))
    if isinstance(node, Choice):
        return f"({' | '.join(map(_in_runs, node.options))})"
    if isinstance(node, Repeat):
        return _repeated(node)
    return _sequence(_joined(node.parts))


def _by_character(node: Node) -> str:
    node = _united(node)
    if isinstance(node, Characters):
        return _one_of(_plain_of(node), _escapes_of(node))
    if isinstance(node, Repeat):
        return f"({_by_character(node.node)}){counted(node.least, node.most)}"
    separator = " | " if isinstance(node, Choice) else " "
    return f"({separator.join(map(_by_character, _children(node)))})" if _children(node) else '""'


def _one_of(*patterns: str) -> str:
    return f"({' | '.join(f'/{one}/' for one in patterns if one)})"


def _united(node: Node) -> Node:
    """Return a choice of characters as one set."""
    if not isinstance(node, Choice):
        return node
    options = [_united(one) for one in node.options]
    sets = [one for one in options if isinstance(one, Characters)]
    if len(sets) < len(options) or len({one.ignores_case for one in sets}) > 1:
        return node
    members = reduce(lambda found, one: found | one.members, sets, 0)
    return Characters(f"[{''.join(_as_item(one.source) for one in sets)}]", members, sets[0].ignores_case)


def counted(least: int, most: int | None) -> str:
    """Return the suffix of a rule for this number of repetitions; None means no upper bound."""
    signs = {(0, 1): "?", (0, None): "*", (1, None): "+"}
    return signs.get((least, most)) or f"{{{least},{'' if most is None else most}}}"


def _joined(parts: Sequence[Node]) -> list[Node]:
    """Return the parts with those that are plain put together: one lexeme has no boundary within."""
    found: list[Node] = []
    for part in parts:
        inner = _joined(part.parts) if isinstance(part, Chain) else [part]
        for one in inner:
            if found and is_plain(one) and is_plain(found[-1]):
                before = found[-1].parts if isinstance(found[-1], Chain) else (found[-1],)
                found[-1] = Chain((*before, one))
            else:
                found.append(one)
    return found


def _sequence(parts: Sequence[Node]) -> str:
    for at, part in enumerate(parts):
        following = 0
        for after in parts[at + 1 :]:
            following |= _first(after)
            if not _is_nullable(after):
                break
        if _continuing(part) & following:
            raise _UnclearBoundaryError
    return f"({' '.join(map(_in_runs, parts))})" if parts else '""'


def _repeated(node: Repeat) -> str:
    counts, inner = counted(node.least, node.most), _united(node.node)
    if isinstance(inner, Characters):
        plain = _plain_of(inner)
        is_run = plain and node.most is None and node.least <= 1
        return _one_of(f"{plain}+" if is_run else plain, _escapes_of(inner)) + counts
    if node.most != 1 and (_continuing(inner) & _first(inner) or _is_nullable(inner)):
        raise _UnclearBoundaryError
    return f"({_in_runs(inner)}){counts}"


def _first(node: Node) -> int:
    """Return the plain characters that a node's texts may begin with."""
    if isinstance(node, Characters):
        return node.members & ~ESCAPED
    if isinstance(node, Chain):
        found = 0
        for part in node.parts:
            found |= _first(part)
            if not _is_nullable(part):
                break
        return found
    return reduce(lambda found, one: found | _first(one), _children(node), 0)


def _alphabet(node: Node) -> int:
    if isinstance(node, Characters):
        return node.members & ~ESCAPED
    return reduce(lambda found, one: found | _alphabet(one), _children(node), 0)


def _is_nullable(node: Node) -> bool:
    if isinstance(node, Repeat):
        return node.least == 0 or _is_nullable(node.node)
    if isinstance(node, Choice):
        return any(map(_is_nullable, node.options))
    return isinstance(node, Chain) and all(map(_is_nullable, node.parts))


def _continuing(node: Node) -> int:
    """Return the plain characters that may extend a lexeme that could already have ended; rather too many."""
    if isinstance(node, Characters):
        return 0
    if is_plain(node):
        return 0 if _length(node) is not None and not _has_choice(node) else _alphabet(node)
    if isinstance(node, Chain):
        found = 0
        for part in reversed(node.parts):
            found |= _continuing(part)
            if not _is_nullable(part):
                break
        return found
    if isinstance(node, Repeat) and isinstance(node.node, Characters) and node.most is not None:
        return 0
    if isinstance(node, Repeat) and node.most == 1:
        return _continuing(node.node)
    return _alphabet(node)


def _has_choice(node: Node) -> bool:
    return isinstance(node, Choice) or any(map(_has_choice, _children(node)))


def _length(node: Node) -> int | None:
    """Return how many characters all texts of a node have; None: not all the same."""
    if isinstance(node, Characters):
        return 1
    lengths = [_length(one) for one in _children(node)]
    if None in lengths:
        return None
    known = [one for one in lengths if one is not None]
    if isinstance(node, Chain):
        return sum(known)
    if isinstance(node, Repeat):
        return known[0] * node.least if node.least == node.most else None
    return known[0] if len(set(known)) == 1 else None


def _plain_of(node: Characters) -> str:
    """Return the pattern of a set's characters that JSON does not escape; empty: there are none."""
    if not node.members & ~ESCAPED:
        return ""
    source = node.source if not node.members & ESCAPED else f"[{_as_item(node.source)}&&{_PLAIN_OF_CLASS}]"
    return f"(?i:{source})" if node.ignores_case else source


def _as_item(source: str) -> str:
    return "\\x{0}-\\x{10ffff}" if source == "(?s:.)" else source


def _escapes_of(node: Characters) -> str:
    """Return the pattern of a set's characters that JSON escapes, as it does; empty: there are none."""
    escaped = [chr(code) for code in range(NUM_ASCII) if node.members & ESCAPED & (1 << code)]
    short = "".join(f"\\x{ord(_SHORT[one]):02x}" for one in escaped if one in _SHORT)
    long = [f"{ord(one):02x}" for one in escaped if one not in _SHORT]
    options = [f"[{short}]"] if short else []
    by_first = {first: "".join(code[1] for code in long if code[0] == first) for first in "01"}
    options += [f"u00{first}[{digits}]" for first, digits in by_first.items() if digits]
    return f"\\\\({'|'.join(options)})" if options else ""


def _pattern(node: Node) -> str:
    """Return a plain node as a regular expression."""
    if isinstance(node, Characters):
        return f"(?i:{node.source})" if node.ignores_case else node.source
    if isinstance(node, Chain):
        return "".join(map(_pattern, node.parts))
    if isinstance(node, Choice):
        return f"(?:{'|'.join(map(_pattern, node.options))})"
    most = "" if node.most is None else str(node.most)
    return f"(?:{_pattern(node.node)}){{{node.least},{most}}}"

"""Markdown in pieces: what is recognised, what stays unchanged, and the same result for any split."""

from __future__ import annotations

import random

import pytest

from semanticd.control.markdown import MAX_MARKED_CHARS, MarkdownStream, Piece, markdown_pieces

TEXT = """# Head **x**

Use `foo(*args)` and **bold words** or *it*, but *args, 2 * 3, snake_case and a*b*c.
- one
  * two `x`
> quote
```python
x = `1`  # **no**
# no heading
```
end **open
"""


def joined(pieces: list[Piece]) -> list[Piece]:
    """Return pieces of which no two neighbours are of one kind."""
    found: list[Piece] = []
    for text, kind in pieces:
        if found and found[-1][1] == kind:
            found[-1] = (found[-1][0] + text, kind)
        else:
            found.append((text, kind))
    return found


def streamed(text: str, sizes: random.Random) -> list[Piece]:
    """Return the pieces of a text that comes a few characters at a time."""
    stream, pieces, at = MarkdownStream(), list[Piece](), 0
    while at < len(text):
        size = sizes.choice((1, 1, 2, 3, 9))
        pieces += stream.feed(text[at : at + size])
        at += size
    return pieces + stream.end()


def test_what_is_marked_is_told_and_its_marks_are_gone() -> None:
    assert joined(markdown_pieces(TEXT)) == [
        ("Head x", "heading"), ("\n\nUse ", "text"), ("foo(*args)", "code"), (" and ", "text"),
        ("bold words", "strong"), (" or ", "text"), ("it", "emphasis"),
        (", but *args, 2 * 3, snake_case and a*b*c.\n", "text"), ("• ", "bullet"), ("one\n", "text"),
        ("  • ", "bullet"), ("two ", "text"), ("x", "code"), ("\n", "text"), ("│ quote", "quote"), ("\n", "text"),
        ("```python", "fence"), ("\n", "text"), ("x = `1`  # **no**", "block"), ("\n", "text"),
        ("# no heading", "block"), ("\n", "text"), ("```", "fence"), ("\nend **open\n", "text"),
    ]  # fmt: skip


def test_it_is_the_same_however_it_comes() -> None:
    sizes = random.Random(7)
    whole = joined(markdown_pieces(TEXT))
    assert all(joined(streamed(TEXT, sizes)) == whole for _ in range(100))
    for _ in range(2000):
        text = "".join(sizes.choice("ab *`#>-\n~ **") for _ in range(sizes.randint(1, 30)))
        assert joined(streamed(text, sizes)) == joined(markdown_pieces(text)), text


def test_without_marks_in_lines_nothing_is_left_out() -> None:
    pieces = markdown_pieces(TEXT, in_lines=False)
    assert "".join(text for text, _ in pieces) == TEXT
    assert {kind for _, kind in pieces} == {"text", "heading", "fence", "block"}


@pytest.mark.parametrize("mark", ["`", "**", "*"])
def test_a_mark_that_is_not_closed_is_waited_for_only_so_long(mark: str) -> None:
    stream = MarkdownStream()
    assert stream.feed(f"see {mark}this") == [("see ", "text")]
    assert stream.held == f"{mark}this"
    words = " and that" * MAX_MARKED_CHARS
    shown = "".join(text for text, _ in stream.feed(words))
    assert shown.startswith(f"{mark}this and that")
    assert len(stream.held) < MAX_MARKED_CHARS + 10
    assert shown + stream.held == f"{mark}this{words}"

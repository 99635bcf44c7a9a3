"""The API reference lists what the daemon serves, no more and no less, and shows each in an example."""

from __future__ import annotations

import re
from pathlib import Path

from semanticd.adapters.http.app import ENDPOINTS
from tests.docs.markdown_page import read_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api-reference.md"
SERVED = {(endpoint.method.upper(), endpoint.path) for endpoint in ENDPOINTS}


def test_the_table_lists_every_endpoint_of_the_openapi_document() -> None:
    listed = re.findall(r"(?m)^\| `(GET|POST|DELETE) (/[^`]*)` \|", PAGE.read_text(encoding="utf-8"))
    assert len(listed) == len(set(listed))
    assert set(listed) == SERVED


def test_every_endpoint_has_an_example() -> None:
    commands = " ".join(block.text.replace("\\\n", " ") for block in read_page(PAGE).blocks)
    shown = set()
    for command in re.split(r"\bcurl\b", commands)[1:]:
        address = re.search(r"localhost:8000(/[^\s?'\"]*)", command)
        assert address, command
        sends = re.search(r"-X (\w+)", command)
        method = sends[1] if sends else "POST" if " -d " in command else "GET"
        # A literal path (`/v1/agents/stats`) is preferred to one with a part of the caller's own.
        fitting = [(method, address[1])] if (method, address[1]) in SERVED else _patterns(method, address[1])
        assert fitting, f"{method} {address[1]} is not served"
        shown.update(fitting)
    assert SERVED - shown == set()


def _patterns(method: str, path: str) -> list[tuple[str, str]]:
    return [
        (its_method, pattern)
        for its_method, pattern in SERVED
        if its_method == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), path)
    ]

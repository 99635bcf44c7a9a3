"""Arguments come back as an object or as text, and of cut ones the members that are complete."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.http.core.arguments import complete_members, read_arguments


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        (None, {}),
        ("[1]", {"arguments": "[1]"}),
        ("{oops", {"arguments": "{oops"}),
        (-0.5, {"arguments": -0.5}),
        (0, {"arguments": 0}),
        ([1], {"arguments": [1]}),
        (True, {"arguments": True}),
    ],
)
def test_arguments_are_read_in_every_form(given: Any, arguments: dict[str, Any]) -> None:
    assert read_arguments(given) == arguments


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", {}),
        ("{", {}),
        ('{"a', {}),
        ('{"a": ', {}),
        ('{"a": "x', {}),
        ('{"a": "x"', {"a": "x"}),
        ('{"a": "x", "b": {"c": 1', {"a": "x"}),
        ('{"a": [1, 2], "n": 12', {"a": [1, 2]}),
        ('{"n": 12, "t": true', {"n": 12, "t": True}),
        ("[1", {}),
        ("x", {}),
    ],
)
def test_of_cut_arguments_only_complete_members_are_kept(text: str, members: dict[str, Any]) -> None:
    assert complete_members(text) == members

"""Anthropic's tools that the client runs, with the arguments that its documentation describes.

The prompt shows them like any other tool: name, description, schema. Tools that run at Anthropic cannot be offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semanticd.domain.chat import ToolSpec

_TEXT = {"type": "string"}
_RANGE = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "First and last line to show, counted from 1; -1 is the last line of the file.",
}


def _schema(required: tuple[str, ...], **properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _editor(*, undo: bool) -> dict[str, Any]:
    commands = ["view", "create", "str_replace", "insert", *(["undo_edit"] if undo else [])]
    return _schema(
        ("command", "path"),
        command={"type": "string", "enum": commands},
        path={**_TEXT, "description": "Path of the file or directory."},
        view_range=_RANGE,
        file_text={**_TEXT, "description": "For `create`: the whole text of the file."},
        old_str={
            **_TEXT,
            "description": "For `str_replace`: the text to replace; it must occur exactly once.",
        },
        new_str={**_TEXT, "description": "For `str_replace`: what to put there."},
        insert_line={
            "type": "integer",
            "description": "For `insert`: the line after which to insert; 0: at the start.",
        },
        insert_text={**_TEXT, "description": "For `insert`: the text to insert."},
    )


_BASH = _schema(
    (),
    command={**_TEXT, "description": "The command to run."},
    restart={"type": "boolean", "description": "Whether to restart the shell instead."},
)
_MEMORY = _schema(
    ("command",),
    command={"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
    path={**_TEXT, "description": "Path below /memories."},
    view_range=_RANGE,
    file_text={**_TEXT, "description": "For `create`: the whole text of the file."},
    old_str={**_TEXT, "description": "For `str_replace`: the text to replace."},
    new_str={**_TEXT, "description": "For `str_replace`: what to put there."},
    insert_line={"type": "integer", "description": "For `insert`: the line after which to insert."},
    insert_text={**_TEXT, "description": "For `insert`: the text to insert."},
    old_path={**_TEXT, "description": "For `rename`: the present path."},
    new_path={**_TEXT, "description": "For `rename`: the new path."},
)

_KINDS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("bash_", "bash", "Runs commands in a shell that keeps its state between calls.", _BASH),
    ("text_editor_20241022", "str_replace_editor", "Views, creates and edits files.", _editor(undo=True)),
    ("text_editor_20250124", "str_replace_editor", "Views, creates and edits files.", _editor(undo=True)),
    ("text_editor_", "str_replace_based_edit_tool", "Views, creates and edits files.", _editor(undo=False)),
    (
        "memory_",
        "memory",
        "Keeps notes in files below /memories, which last from one conversation to the next.",
        _MEMORY,
    ),
)
"""Prefix of the type, default name, description and argument schema of each tool."""


def client_tool(kind: str, name: str) -> ToolSpec | None:
    """Return the tool of this type, such as `bash_20250124`; None when the client does not run it."""
    for prefix, usual_name, description, schema in _KINDS:
        if kind.startswith(prefix):
            return ToolSpec(name or usual_name, description, schema)
    return None

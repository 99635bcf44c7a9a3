"""A settings file to begin with: every setting explained and commented out, so that it changes nothing."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semanticd.adapters.config.schema import SECTIONS, Settings, declared, read_setting

_HEAD = """\
# Settings of semanticd. A line that is commented out has its default value.
# Flags and environment variables override this file; `semanticd config` shows what is in effect and why.
# "none" marks a setting that has no default.
# Models of your own: [models.NAME] with `sources`; a model with settings under another name: [profiles.NAME] with
# `model` and `defaults`. See the page on adding models.
"""


def settings_file() -> str:
    """Return the file's text; it is TOML, without any value set."""
    return _HEAD + "".join(_section(name) for name in SECTIONS)


def _section(name: str) -> str:
    return f"\n[{name}]\n" + "\n".join(line for line in _lines(name)) + "\n"


def _lines(section: str) -> Iterator[str]:
    defaults = Settings()
    for one in declared():
        if one.section == section:
            text = f"{one.meaning} Expected: {one.kind.expected}. Variable: {one.env}."
            yield from textwrap.wrap(text, width=100, initial_indent="# ", subsequent_indent="# ")
            value = read_setting(defaults, one.name)
            # TOML has no word for none: such a line would set something, or nothing that is understood.
            yield f"# {one.key} has no default." if value is None else f"#{one.key} = {_toml(value)}"


def _toml(value: Any) -> str:
    """Return a value as TOML writes it; strings, numbers and lists are written as in JSON."""
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(str(value) if isinstance(value, Path) else value)

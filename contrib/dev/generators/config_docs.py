"""Write docs/configuration.md from the settings: `python contrib/dev/generators/config_docs.py`. A test compares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from semanticd.adapters.config.schema import SECTIONS, Settings, declared, read_setting

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"

HEAD = r"""# Configuration

The value of a setting comes from the first of these sources that defines it:

1. a command-line flag (`semanticd serve --server-port 8080`; `semanticd config --all` lists all),
2. the environment (`SEMANTIC_SERVER_PORT=8080`),
3. a file `.env` in the working folder, with the same names (with restrictions, see below),
4. a TOML file: `config.toml` in the user's configuration folder, or the file in `SEMANTIC_CONFIG_FILE`
   (`[server]` with `port = 8080` below it),
5. the default.

If the default is `none`, the word `none` and an empty variable both mean the default.

If settings are unknown or invalid, the daemon does not start, and the error lists all of them with the expected values.
An unknown variable that begins with `SEMANTIC_` may belong to another program: a warning suggests the closest setting,
and the variable is ignored. `semanticd start` and `serve` list every file that was read and the settings in it.
`semanticd config` shows every effective setting and its source, with keys masked. Settings are read once, when the
daemon starts.

There is no flag for keys, because other users can read a program's arguments.

A `.env` file that git tracks, that belongs to another user, or that others can write to cannot change security
settings, because it may come from a repository: addresses, ports, keys, hosts, origins, endpoints, peers, folders,
models from other sources, recording and storage, checks, and limits on requests, memory and disk. Only the settings
marked with \* are applied from such a file; they change speed, precision and format. A warning lists the others. Such a
file can select models from the catalogue and your own entries by name, but not a path or a repository on the hub.

Add your own models to the TOML file as `[models.NAME]` tables, and models with settings under other names as
`[profiles.NAME]`: see [adding models](model-onboarding.md).

This page is generated from the code by `python contrib/dev/generators/config_docs.py`.
"""

PERSONAL = {"paths.models_dir", "paths.runtime_dir", "paths.log_dir", "agent.cache_dir"}
FOLDERS = {"agent.cache_dir": "`~/.semantic/caches`"}


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for section, cls in SECTIONS.items():
        lines += [f"## {section}", "", str(cls.__doc__).strip(), ""]
        lines += ["| variable | flag | default | expected | meaning |", "|---|---|---|---|---|"]
        for one in declared():
            if one.section == section:
                default = _default(one.name, read_setting(Settings(), one.name), one.secret)
                flag = f"`{one.flag}`" if one.flag else "none"
                mark = "" if one.guarded else r" \*"
                lines.append(
                    f"| `{one.env}`{mark} | {flag} | {default} | {one.kind.expected} | {one.meaning} |"
                )
        lines.append("")
    return "\n".join(lines)


def _default(name: str, value: Any, secret: bool) -> str:
    if name in PERSONAL:
        return FOLDERS.get(name, "by platform")
    if secret or value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return "`" + ",".join(value) + "`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")

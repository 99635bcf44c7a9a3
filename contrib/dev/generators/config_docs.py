"""Write docs/configuration.md from the settings: `python contrib/dev/generators/config_docs.py`. A test compares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from semanticd.adapters.config.schema import SECTIONS, Settings, declared, read_setting

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"

HEAD = r"""# Configuration

A setting is taken from the first of these that has it:

1. a command-line flag (`semanticd serve --server-port 8080`; `semanticd config --all` lists all),
2. the environment (`SEMANTIC_SERVER_PORT=8080`),
3. a file `.env` in the working folder, with the same names (within limits, see below),
4. a TOML file: `config.toml` in the user's configuration folder, or the file that `SEMANTIC_CONFIG_FILE` names
   (`[server]` with `port = 8080` below it),
5. the default.

Where the default is `none`, the word `none` means it, and so does an empty variable.

An unknown or bad setting is named together with what was expected, all at once, and the daemon does not start. An
unknown variable that begins with `SEMANTIC_` may be another program's: it is pointed out, with the closest name of
ours, and passed over. `semanticd start` and `serve` name every file that was read and what it set. `semanticd config`
shows every setting in effect and where it came from, with keys masked. Settings are read once, when the daemon
starts.

Keys have no flag, because other users can read a program's arguments.

A `.env` file that git tracks, that belongs to another user, or that others may write to decides nothing about
security, because it may have come with a repository: not about addresses, ports, keys, hosts, origins, endpoints,
peers, folders or models from elsewhere, what is recorded or kept, checks, or limits on requests, memory and disk. From
such a file only the settings marked with \* are applied, which change speed, precision and form, and a warning names
the others. Of models it may choose those of the catalogue and your own entries by name, neither a path nor a
repository on the hub.

Models of your own are added in the TOML file as `[models.NAME]` tables, models with settings under other names as
`[profiles.NAME]`: see [adding models](model-onboarding.md).

This page is made from the code by `python contrib/dev/generators/config_docs.py`.
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

"""Commands that run a Python module as a process of its own, by this Python.

Rule: the folder that the user is in is never on the new process's path. `python -m` would put it there first, and so
import whatever a cloned repository calls `h2.py`; folders that `PYTHONPATH` names stay on it.
"""

from __future__ import annotations

import sys

_BEFORE_3_11 = (
    "import sys; del sys.path[0]; import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Equivalent of `-P -m` for a Python without `-P`; `sys` is built in, so never the folder's."""


def python_module(name: str) -> list[str]:
    """Return the beginning of a command that runs the module `name`; its arguments follow."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", name]
    return [sys.executable, "-c", _BEFORE_3_11, name]

"""Without the extra `mcp` the command says how to get it."""

from __future__ import annotations

import subprocess
import sys


def test_without_the_extra_the_message_says_how_to_get_it() -> None:
    code = (
        "import sys, runpy\n"
        "sys.modules['mcp'] = None\n"
        "sys.argv = ['semanticd', 'mcp']\n"
        "runpy.run_module('semanticd', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=115)
    assert done.returncode == 1
    assert "pip install 'semanticd[mcp]'" in done.stderr
    assert "Traceback" not in done.stderr

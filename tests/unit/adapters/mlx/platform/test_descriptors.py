from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm
import_mlx_lm()
import semanticd.adapters.mlx.model.loader
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(256, 1024), (1000, 1000), (3000, 4000)])
def test_the_library_changes_no_limit_and_starts_below_its_own(soft: int, hard: int) -> None:
    script = SCRIPT.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == f"({soft}, {hard})\n", done.stderr[-500:]

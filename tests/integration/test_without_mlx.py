"""MLX without a back end, as `pip install semanticd` leaves it on Linux: one sentence that says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import tiny_gguf

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(short_tmp_path: Path) -> dict[str, str]:
    """A home in which `import mlx.core` fails as it does where the library of a back end is missing."""
    package = short_tmp_path / "packages" / "mlx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')\n")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(short_tmp_path),
        "PYTHONPATH": f"{package.parent}:{REPOSITORY}",
        "SEMANTIC_RUNTIME_DIR": str(short_tmp_path / "run"),
        "SEMANTIC_LOG_DIR": str(short_tmp_path / "logs"),
        "SEMANTIC_MODELS_DIR": str(short_tmp_path / "models"),
        "SEMANTIC_AGENT_CACHE_DIR": str(short_tmp_path / "caches"),
        "SEMANTIC_SERVER_PORT": "0",
        "SEMANTIC_LOG_CONSOLE": "false",
    }


@pytest.mark.parametrize(
    "words", [("serve",), ("start",), ("models", "fit"), ("models", "pull", "tiny.gguf")], ids=" ".join
)
def test_without_a_back_end_each_command_says_what_to_install(
    environment: dict[str, str], words: tuple[str, ...]
) -> None:
    home = Path(environment["HOME"])
    tiny_gguf.write(home / "tiny.gguf")
    ran = subprocess.run(
        [sys.executable, "-m", "semanticd", *words],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert "MLX does not work here: libmlx.so: cannot open shared object file" in ran.stderr
    assert "pip install 'semanticd[cpu]'" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "please report" not in ran.stderr

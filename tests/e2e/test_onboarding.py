"""A model is added the way docs/model-onboarding.md says, from nothing to an answer."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from semanticd.adapters.models.registry import read_entries
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model-onboarding.md"


def page_toml() -> str:
    """Return the page's configuration example."""
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_pages_example_is_a_valid_entry() -> None:
    entries = read_entries(tomllib.loads(page_toml())["models"], origin="the page")
    assert entries["coder"][0].context_length == 32768


@pytest.mark.timeout(600)
def test_a_model_added_as_the_page_says_answers_under_its_name(short_tmp_path: Path) -> None:
    folder = write_tiny_model(short_tmp_path / "models" / "coder")
    config = short_tmp_path / "config.toml"
    config.write_text(
        page_toml().replace("~/models/coder", str(folder)).replace('tool_parser = "qwen3_coder"', "")
    )
    daemon = DaemonProcess(
        short_tmp_path,
        models_dir=short_tmp_path / "own",
        SEMANTIC_CONFIG_FILE=str(config),
        SEMANTIC_MLX_MODEL_ID="coder",
    )
    daemon.start()
    try:
        for name in ("coder", "default-coder", "default"):
            answer = daemon.chat(
                [{"role": "user", "content": "Hello"}], agent="ada", model=name, max_tokens=4
            )
            assert answer["model"] == "coder"
    finally:
        daemon.kill()

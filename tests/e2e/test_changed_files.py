"""A daemon whose program is replaced under it (an upgrade) answers on: what requests need is loaded by then."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from semanticd.control.client import CommandFailedError, ControlClient
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model
from tests.integration.http.test_fuzz import GOOD, MESSAGE, RICH, write_short_model

pytestmark = pytest.mark.timeout(600)

PROGRAM = """
import importlib.machinery, os, sys
class Noted:
    def find_spec(self, name, path=None, target=None):
        if os.path.exists(os.environ["NOTE_FROM"]):
            with open(os.environ["NOTE_IN"], "a") as notes:
                notes.write(name + chr(10))
sys.meta_path.insert(0, Noted())
from semanticd.entrypoints.cli import main
sys.argv = ["semanticd", "serve"]
main()
"""
CHAT = {"model": "default", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"properties": {"a": {"pattern": "^a+$"}}}},
}
MORE = (
    {"stream": True, "stream_options": {"include_usage": True}},
    {"tools": [TOOL], "tool_choice": "required"},
    {"response_format": {"type": "json_object"}},
    {"guided_regex": "[a-z]+"},
    {"guided_choice": ["a", "b"]},
    {
        "logprobs": True,
        "top_logprobs": 3,
        "n": 2,
        "temperature": 1,
        "seed": 3,
        "top_p": 0.5,
        "logit_bias": {"5": 1},
    },
)
PAGES = ("/", "/docs", "/openapi.json", "/metrics", "/health", "/v1/models", "/v1/agents", "/api/tags")
TEXTS = (
    ("/v1/embeddings", {"input": ["a"]}),
    ("/tokenize", {"prompt": "hi"}),
    ("/detokenize", {"tokens": [5]}),
)
LOOKS = (
    "status",
    "config.show",
    "log.recent",
    "history",
    "agents.list",
    "models.list",
    "cache.stats",
    "cache.sizes",
)
COMPACT = "/v1/responses/compact"
NUM_SUMMARIES = 30
LOOKS += ("cache.verify", "cache.prune", "requests.list", "requests.failures", "doctor")


def compact(client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    """Ask for a summary, each time of a longer conversation, until the model of random weights has written one.

    Half of its tokens end an answer, so that one summary in six is empty, which the server refuses.
    """
    for number in range(1, NUM_SUMMARIES + 1):
        answer = client.post(COMPACT, json={**body, "input": [*body["input"], *[MESSAGE] * number]})
        refused = answer.status_code >= 400 and answer.json()["error"]
        if not refused or (refused["code"] != "model_error" and refused["param"] != "max_output_tokens"):
            return answer
    raise AssertionError(f"the model wrote none of {NUM_SUMMARIES} summaries: {answer.text}")


def ask_everything(daemon: DaemonProcess, folder: Path) -> None:
    """Send a request of each kind, and a command of each kind; fails where one is not answered as it should be."""
    with httpx.Client(base_url=daemon.url, timeout=120) as client:
        for page in (*PAGES, "/nothing"):
            assert client.get(page).status_code in (200, 404), page
        for url, body in (*GOOD.items(), *RICH):
            if not url.startswith("/admin"):
                given = {**body, **({"model": "default"} if "model" in body else {})}
                answer = compact(client, given) if url == COMPACT else client.post(url, json=given)
                assert answer.status_code < 300, (url, answer.text)
        for more in MORE:
            answer = client.post("/v1/chat/completions", json={**CHAT, **more})
            assert answer.status_code == 200, (more, answer.text)
        for coding, packed in (("gzip", gzip.compress), ("zstd", zstandard.compress)):
            headers = {"content-encoding": coding, "content-type": "application/json"}
            raw = packed(json.dumps(CHAT).encode())
            answer = client.post("/v1/chat/completions", content=raw, headers=headers)
            assert answer.status_code == 200, (coding, answer.text)
        for url, body in (
            ("/v1/embeddings", {"input": ["a"]}),
            ("/tokenize", {"prompt": "hi"}),
            ("/detokenize", {"tokens": [5]}),
        ):
            assert client.post(url, json={"model": "default", **body}).status_code == 200, url
        exported = client.get("/v1/agents/ann/export")
        assert client.post("/v1/agents/import?id=copy", content=exported.content).status_code == 201
        assert client.delete("/v1/agents/copy").status_code == 200
        answer = client.post("/admin/models/load", json={"model": str(folder)})
        assert answer.status_code == 200, answer.text
    with ControlClient.connect(daemon.home / "run" / "semanticd.sock") as control:
        for command in LOOKS:
            control.call(command)
        with pytest.raises(CommandFailedError):
            control.call("agents.show", agent="nobody")


def test_requests_load_no_module_of_a_daemon_that_is_ready(tmp_path: Path, short_tmp_path: Path) -> None:
    home, notes, begin = short_tmp_path, tmp_path / "notes", tmp_path / "begin"
    model, other = write_short_model(tmp_path / "tiny"), write_tiny_model(tmp_path / "other", seed=7)
    daemon = DaemonProcess(
        home,
        models_dir=tmp_path / "models",
        command=("-c", PROGRAM),
        SEMANTIC_MLX_MODEL_ID=str(model),
        NOTE_FROM=str(begin),
        NOTE_IN=str(notes),
    )
    daemon.start()
    try:
        # What is loaded after the start is loaded by the time a first generation has ended.
        assert (
            httpx.post(
                f"{daemon.url}/v1/chat/completions", json={**CHAT, "max_tokens": 20}, timeout=60
            ).status_code
            == 200
        )
        begin.touch()
        ask_everything(daemon, other)
        begin.unlink()
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    assert not notes.exists(), notes.read_text()

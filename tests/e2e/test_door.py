"""Random requests over real connections to a daemon of its own: answered or refused, and its memory comes back.

The many of them go through `tests/integration/http/test_fuzz.py`, `contrib/dev/checks/door_load.py` measures silences.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from semanticd.control.client import ControlClient
from tests.fakes.daemon_process import DaemonProcess
from tests.integration.http.test_fuzz import random_request, write_short_model

pytestmark = pytest.mark.timeout(600)

NUM_FIRST, NUM_MORE = 300, 400
PATIENCE_S = 60.0
GIVEN_BACK_S = 7.0
"""Memory that is freed is given back to the system every five seconds."""


def send(daemon: DaemonProcess, numbers: range) -> Counter[int]:
    """Send random requests; returns their statuses, 0 where the connection ended, -1 where httpx refuses to send."""
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=daemon.url, timeout=120) as client:
        for number in numbers:
            url, headers, raw = random_request(number)
            encoded = [(name, value.encode("latin-1", "replace")) for name, value in headers.items()]
            try:
                answer = client.post(url, content=raw, headers=encoded)
            except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError):
                statuses[-1] += 1
            except httpx.RemoteProtocolError:
                statuses[0] += 1
            else:
                statuses[answer.status_code] += 1
                assert answer.status_code in (503, *range(200, 500)), (number, url, raw[:300], answer.text)
                # The tiny model writes no summary of a conversation: its failure, not the server's.
                assert answer.status_code != 503 or url == "/v1/responses/compact", (number, url, raw[:300])
    return statuses


def clear(daemon: DaemonProcess) -> None:
    """Clear the cache; its memory is given back later."""
    with ControlClient.connect(daemon.home / "run" / "semanticd.sock") as control:
        control.call("cache.clear")


def resources(daemon: DaemonProcess) -> tuple[int, int]:
    """Return resident bytes and open descriptors."""
    process = psutil.Process(daemon.pid)
    return process.memory_info().rss, process.num_fds()


def test_random_requests_end_well_beside_a_stream_and_memory_comes_back(
    tmp_path: Path, short_tmp_path: Path
) -> None:
    model = write_short_model(tmp_path / "tiny")
    daemon = DaemonProcess(
        short_tmp_path,
        models_dir=tmp_path / "models",
        SEMANTIC_MLX_MODEL_ID=str(model),
        SEMANTIC_MLX_CACHE_BUDGET_MB="32",
    )
    daemon.start()
    ending = threading.Event()
    streamed: list[str] = []

    def stream() -> None:
        body = {
            "model": "tiny",
            "stream": True,
            "max_tokens": 200,
            "messages": [{"role": "user", "content": "hi"}],
        }
        body["logit_bias"] = {str(token): -100 for token in range(256, 512)}  # what would end it
        with httpx.Client(base_url=daemon.url, timeout=120) as client:
            while not ending.is_set():
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    streamed.append([line for line in answer.iter_lines() if line][-1])

    try:
        send(daemon, range(NUM_FIRST))
        clear(daemon)
        # Less than is given back by then makes the comparison milder, never harder.
        time.sleep(GIVEN_BACK_S)
        before, descriptors = resources(daemon)
        other = threading.Thread(target=stream)
        other.start()
        try:
            statuses = send(daemon, range(NUM_FIRST, NUM_FIRST + NUM_MORE))
        finally:
            ending.set()
            other.join(120)
        clear(daemon)
        given_back_by = time.monotonic() + PATIENCE_S
        after, left = resources(daemon)
        while (after > before * 1.05 or left > descriptors + 8) and time.monotonic() < given_back_by:
            time.sleep(0.1)
            after, left = resources(daemon)
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    assert statuses[200] > NUM_MORE / 10
    assert set(streamed) == {"data: [DONE]"}
    assert after <= before * 1.05, (before, after)
    assert left <= descriptors + 8
